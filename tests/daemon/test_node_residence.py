"""What is heard of an engine's KV, with holes in it, against what the engine says when it is asked."""

import asyncio

import pytest
from node_kit import until

from saga_core.ids import SessionId, WorkerId
from saga_core.kv.commands import Chain, Resident, Snapshot
from saga_node.checker import Checker
from saga_node.residence import Residence
from saga_vllm.control import NoControl
from saga_vllm.kv_events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, Lost, Restarted
from saga_vllm.proving import SESSION

BLOCK = 16
W = WorkerId("n1/0")


def stored(session, *hashes, parent=None):
    return BlockStored(
        block_hashes=hashes, parent_block_hash=parent, block_size=BLOCK, medium="GPU", group_idx=0,
        session_id=session,
    )  # fmt: skip


def removed(*hashes):
    return BlockRemoved(block_hashes=hashes, medium="GPU", group_idx=0)


class Engine:
    """What is really there; its events are heard, or are lost."""

    def __init__(self, residence):
        self.residence, self.chains, self.gone = residence, {}, set()
        self.at_s, self.seq, self.asked, self.fails = 100.0, 0, [], 0
        self.meanwhile = None

    def do(self, *events, lost=False):
        self.at_s += 1.0
        for event in events:
            if isinstance(event, BlockStored):
                chain = self.chains.setdefault(event.session_id, [])
                if event.parent_block_hash is None:
                    chain.clear()
                chain += event.block_hashes
                self.gone -= set(event.block_hashes)
            else:
                self.gone |= set(event.block_hashes)
        batch = Batch(self.seq, self.at_s, 0, events)
        self.seq += 1
        if not lost:
            self.residence.hear(batch)
        return batch

    def found(self, session):
        chain = self.chains[session]
        return next((chain[:i] for i, h in enumerate(chain) if h in self.gone), chain)

    async def ask(self, command):
        assert isinstance(command, Snapshot)
        self.asked.append(command.sessions)
        if self.fails:
            self.fails -= 1
            raise NoControl("busy")
        names = command.sessions or self.chains
        answer = Resident(
            at_s=self.at_s + 0.5, block_tokens=BLOCK,
            chains=[Chain(name, list(self.found(name))) for name in names if name in self.chains],
        )  # fmt: skip
        if self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
        return answer


@pytest.fixture
def residence():
    return Residence(W, 7)


@pytest.fixture
def engine(residence):
    return Engine(residence)


@pytest.fixture
async def checked(residence, engine):
    """With somebody who asks."""
    task = asyncio.create_task(Checker(engine, residence, every_s=0.02).run())
    yield
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def tokens(residence, session):
    return residence.ledger.tokens(SessionId(session))


def test_without_an_engine_to_ask_nothing_is_claimed_after_a_hole(residence, engine):
    engine.do(stored("1.a", 1, 2, 3))
    assert residence.news().tokens == {"1.a": 3 * BLOCK}
    residence.hear(Lost(1, 4))
    news = residence.news()
    assert (news.reset, news.holes, news.healed) == (True, 1, 0)
    assert tokens(residence, "1.a") == 0
    engine.do(stored("1.a", 1, 2, 3))
    assert tokens(residence, "1.a") == 3 * BLOCK


async def test_after_a_hole_the_engine_is_asked_and_the_head_hears_of_it(residence, engine, checked):
    await asyncio.sleep(0)
    engine.do(stored("1.a", 1, 2, 3))
    residence.news()
    engine.do(removed(3), lost=True)
    engine.do(stored("2.b", 1, 9), lost=True)
    residence.hear(Lost(1, 2))
    assert tokens(residence, "1.a") == 3 * BLOCK, "as it was, until the answer"
    await until(lambda: residence.healed, "mended")
    assert (tokens(residence, "1.a"), tokens(residence, "2.b")) == (2 * BLOCK, 2 * BLOCK)
    news = residence.news()
    assert news.tokens == {"1.a": 2 * BLOCK, "2.b": 2 * BLOCK}
    assert (news.reset, news.holes, news.healed) == (False, 1, 1)
    assert residence.news() is None
    residence.ledger.check()


async def test_what_happens_while_the_engine_is_asked_counts_once(residence, engine, checked):
    await asyncio.sleep(0)
    engine.do(stored("1.a", 1, 2, 3))

    def meanwhile():
        engine.do(removed(3))
        engine.do(stored("1.a", 4, parent=2))

    engine.meanwhile = meanwhile
    residence.hear(Lost(1, 1))
    early = engine.do(stored("1.a", 3, parent=2), lost=True)  # of before the answer, heard after the hole
    residence.hear(early)
    await until(lambda: residence.healed, "mended")
    assert tokens(residence, "1.a") == 3 * BLOCK, "1, 2 and 4"


async def test_a_silent_difference_is_found_and_healed(residence, engine, checked):
    """Nobody knows that something was lost: neither a number is missing, nor is there an event at all."""
    engine.do(stored("1.a", 1, 2, 3))
    engine.do(removed(2), lost=True)
    engine.chains["3.finds"] = [1]  # it has found what another stored, and there is no event of that
    await until(lambda: residence.healed, "mended")
    assert (tokens(residence, "1.a"), tokens(residence, "3.finds")) == (BLOCK, BLOCK)
    assert residence.holes == 1


async def test_a_difference_that_passes_is_none(residence, engine, checked):
    engine.do(stored("1.a", 1, 2))
    late = engine.do(stored("1.a", 3, parent=2), lost=True)
    await until(lambda: engine.asked, "looked")
    residence.hear(late)
    count = len(engine.asked)
    await until(lambda: len(engine.asked) > count + 2, "looked again")
    assert (residence.holes, residence.healed) == (0, 0)


async def test_an_engine_that_does_not_answer_is_asked_again(residence, engine, checked):
    await asyncio.sleep(0)
    engine.do(stored("1.a", 1, 2, 3))
    engine.fails = 1
    residence.hear(Lost(1, 2))
    await until(lambda: residence.healed, "mended")
    assert tokens(residence, "1.a") == 3 * BLOCK


async def test_a_restarted_publisher_is_a_new_engine(residence, engine, checked):
    await asyncio.sleep(0)
    engine.do(stored("1.a", 1, 2, 3))
    residence.hear(Restarted())
    assert tokens(residence, "1.a") == 0
    residence.hear(Batch(0, 1.0, 0, (AllBlocksCleared(),)))


def test_the_nodes_own_trial_is_no_session(residence, engine):
    engine.do(stored(SESSION, 1, 2))
    assert residence.probed_tokens == 2 * BLOCK
    assert residence.news() is None
    residence.mend(Resident(at_s=0.0, block_tokens=BLOCK, chains=[Chain(SESSION, [1, 2])]))
    assert residence.news().tokens == {}
