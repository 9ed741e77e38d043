"""Recordings for the oracle tests: written by hand, or drawn at random; and the cache once more, block by block."""

from random import Random

from hypothesis import strategies as st

from saga_core.costs import CostTable
from saga_sim.oracle import Access, Recording, Run
from saga_sim.oracle.brute import path

COSTS = CostTable(
    step_s=0.01, prefill_token_s=1e-3, attention_token2_s=4e-4, decode_s=2e-3, context_token_s=1e-5
)


def access(session, start, end, *runs, prompt=None, workflow=None, **more):
    """An access whose prompt is all it holds, unless said otherwise."""
    blocks = runs[-1][2] if runs else 0
    return Access(
        start_s=float(start), end_s=float(end), workflow=workflow or session, session=session,
        runs=tuple(Run(*run) for run in runs), prompt_blocks=blocks if prompt is None else prompt,
        tokens=more.pop("tokens", blocks), **more,
    )  # fmt: skip


def recording(*accesses, ends=None, block=1):
    made = Recording(block_tokens=block, accesses=tuple(accesses), ends_s=ends or {})
    made.check()
    return made


def peak(made):
    """Blocks that running accesses hold at most at once; a pool must have as many."""
    most = 0
    for number, new in enumerate(made.accesses):
        running = [a for a in made.accesses[:number] if a.end_s > new.start_s] + [new]
        held = {block for a in running for block in path(a)}
        most = max(most, len(held) + sum(a.private_blocks for a in running))
    return most


class Drawn:
    """Draws by hypothesis, which shrinks what fails."""

    def __init__(self, draw):
        self._draw = draw

    def between(self, low, high):
        return self._draw(st.integers(low, high))

    def one_of(self, *choices):
        return self._draw(st.sampled_from(choices))


class Seeded:
    """Draws by a seeded generator, for distributions."""

    def __init__(self, seed):
        rng = Random(seed)
        self.between = rng.randint
        self.one_of = lambda *choices: rng.choice(choices)


def case(pick, accesses=10, sessions=4, grow=2, shared=2):
    """Sessions that grow, branch off their own past, start over, and share their beginning with others."""
    made, paths, busy, streams = [], {}, {}, 1
    for i in range(pick.between(accesses // 2, accesses)):
        start = float(i)
        free = [s for s in range(sessions) if busy.get(s, 0.0) <= start]
        if not free:
            continue
        who = pick.one_of(*free)
        runs = paths.get(who)
        how = pick.one_of("grow", "grow", "again", "branch") if runs else "new"
        more = pick.between(1, grow)
        if how == "grow":
            last = runs[-1]
            runs = [*runs[:-1], Run(last.stream, last.low, last.high + more)]
        elif how != "again":
            cut = pick.between(0, shared if how == "new" else runs[-1].high)
            base = [Run(0, 0, shared)] if how == "new" else runs
            kept = [Run(s, low, min(high, cut)) for s, low, high in base if low < cut]
            runs = [*kept, Run(streams, cut, cut + more)]
            streams += 1
        paths[who] = runs
        end = start + pick.one_of(0.4, 0.9, 0.9, 1.7) + i / 1000
        busy[who] = end
        made.append(
            access(
                f"s{who}", start, end, *runs,
                prompt=max(0, runs[-1].high - pick.between(0, 1)),
                private_blocks=pick.between(0, 1),
                new_tokens=pick.between(0, 3), tool=pick.one_of("a", "b"),
            )
        )  # fmt: skip
    ends = {f"s{who}": end for who, end in busy.items() if pick.between(0, 1)}
    return recording(*made, ends=ends)


@st.composite
def recordings(draw, **sizes):
    return case(Drawn(draw), **sizes)


@st.composite
def pagings(draw, accesses=12, pages=5):
    """Single blocks, each a stream of its own: plain paging, with holds."""
    made = []
    for i in range(draw(st.integers(2, accesses))):
        page = draw(st.integers(0, pages - 1))
        hold = draw(st.sampled_from([0.5, 0.5, 1.6]))
        made.append(access(f"s{page}-{i}", i, i + hold, (page, 0, 1), workflow="w"))
    return recording(*made)


def naive(made, pool, key):
    """Missed blocks of a cache that evicts one block at a time, the one with the least `key(block, last, now)`."""
    resident, computed, missed = {}, set(), 0
    for number, new in enumerate(made.accesses):
        for i, old in enumerate(made.accesses[:number]):
            if old.end_s <= new.start_s:
                for block in path(old):
                    if block in resident:
                        resident[block] = max(resident[block], (old.end_s, i))
        running = [a for a in made.accesses[:number] if a.end_s > new.start_s] + [new]
        held = {block for a in running for block in path(a)}
        found = True
        for block in path(new)[: new.prompt_blocks]:
            found = found and block in resident
            missed += not found and block in computed
        computed.update(path(new))
        room = pool - sum(a.private_blocks for a in running)
        wanted = set(resident) | held
        while len(wanted) > room:
            victim = min(wanted - held, key=lambda block: key(block, resident[block], number))
            wanted.remove(victim)
        resident = {block: resident.get(block, (-1.0, -1)) for block in wanted}
    return missed
