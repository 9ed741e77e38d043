"""Answers as tables for people. Each function: a view in, a renderable out that fits 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saga_cli.grid import Grid
from saga_cli.units import UNKNOWN, count, duration, plain, plural, share
from saga_core.views import ClusterView, NodeView, SessionView, Totals, WorkerView, WorkflowView

STYLES: Mapping[str, str] = {
    **dict.fromkeys(("ready", "up", "running", "done", "reasoning"), "green"),
    **dict.fromkeys(
        ("starting", "accepted", "cancelling", "queued", "tool", "held", "paused", "draining"), "yellow"
    ),
    **dict.fromkeys(("lost", "failed"), "red"),
    **dict.fromkeys(("left", "cancelled", "closed", "drained"), "dim"),
}
"""Colour of a state word; the word itself says it too."""


def state_text(state: str, seconds: float | None = None) -> Text:
    """The word in its colour, and since when."""
    told = state if seconds is None else f"{state} {duration(seconds)}"
    return Text(told, style=STYLES.get(state, ""))


def pairs(values: Mapping[str, str | Text]) -> RenderableType:
    """`name  value` lines."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    return table


def cluster_table(cluster: ClusterView) -> RenderableType:
    """`saga status`: the cluster's own line, its nodes, its workers, and what was done."""
    return Group(
        pairs(_cluster_facts(cluster)),
        Text(),
        node_details(cluster.nodes),
        Text(),
        worker_table(cluster.workers),
        *(reason_lines(cluster.workers)),
        *gate_table(cluster.workers),
    )


def profile_table(current: str, profiles: Mapping[str, str]) -> RenderableType:
    """`saga profile`: every profile and what it does; the one that decides is marked."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, what in profiles.items():
        mine = name == current
        table.add_row("*" if mine else "", Text(name, style="bold" if mine else ""), Text(what))
    return table


def _cluster_facts(cluster: ClusterView) -> dict[str, str | Text]:
    facts: dict[str, str | Text] = {
        "cluster": f"{cluster.name} (saga {cluster.version}), up {duration(cluster.up_s)}",
        "endpoint": f"{cluster.url}/v1",
        "profile": cluster.profile,
        "models": ", ".join(cluster.models) or "none served yet",
        "workflows": workflows_text(cluster.totals),
        "steps": steps_text(cluster.totals),
    }
    return facts | ({"gate": gate_text(cluster.totals)} if has_gate(cluster.workers) else {})


def has_gate(workers: Sequence[WorkerView]) -> bool:
    """Whether the profile counts memory."""
    return any(w.need_tokens is not None for w in workers)


def gate_text(totals: Totals) -> str:
    held = f"{plural(totals.sessions_held, 'session')} waiting" if totals.sessions_held else "nobody waits"
    return held + (f", {totals.sessions_paused} paused" if totals.sessions_paused else "")


def workflows_text(totals: Totals) -> str:
    return (
        ", ".join(f"{number} {state}" for state, number in totals.workflows.items() if number) or "none yet"
    )


def steps_text(totals: Totals) -> str:
    parts = [f"{count(totals.steps_done)} done"]
    parts += [f"{totals.steps_held} held"] if totals.steps_held else []
    parts += [f"{totals.steps_waiting} waiting"] if totals.steps_waiting else []
    parts += [f"{totals.steps_refused} refused"] if totals.steps_refused else []
    if totals.prompt_tokens:
        cached = share(totals.cached_tokens, totals.prompt_tokens)
        parts.append(f"{count(totals.prompt_tokens)} prompt tokens ({cached} cached)")
        parts.append(f"{count(totals.output_tokens)} written")
    return ", ".join(parts)


def node_table(nodes: Sequence[NodeView]) -> RenderableType:
    return Grid(
        "*NODE", "STATE", "*HOST", ">SEEN", ">PROGRAMS", ">ENDS IN",
        rows=[
            (n.id, state_text(n.standing), n.host, f"{duration(n.seen_s)} ago", str(n.programs), duration(n.end_s))
            for n in nodes
        ],
        empty="no node has joined yet",
    )  # fmt: skip


def node_details(nodes: Sequence[NodeView]) -> RenderableType:
    """`saga node list`: with why some of them drain, and what is left there."""
    return Group(node_table(nodes), *drain_lines(nodes))


def drain_lines(nodes: Sequence[NodeView]) -> list[RenderableType]:
    """Why nodes drain, one line each."""
    return [Text(plain(_drain_line(node)), style="dim") for node in nodes if node.duty != "active"]


def _drain_line(node: NodeView) -> str:
    left = [plural(node.steps, "step")] if node.steps else []
    left += [plural(node.programs, "program")] if node.programs else []
    line = f"{node.id} {node.duty}: {node.why}" + (f"; {' and '.join(left)} left" if left else "")
    if node.duty == "draining" and node.until_s is not None:
        line += f", broken off in {duration(node.until_s)}"
    return line + ("; then its daemon ends" if node.removed else "")


def worker_table(workers: Sequence[WorkerView]) -> RenderableType:
    return Grid(
        "*WORKER", "STATE", "*MODEL", ">LOAD", ">KV", ">RESIDENT", ">RUN", ">WAIT", ">STEPS",
        rows=[
            (
                w.id, state_text(w.state), w.model, f"{w.load:.2f}", f"{100 * w.kv_usage:.0f}%",
                share(w.resident_tokens, w.capacity_tokens), str(w.running), str(w.waiting), count(w.steps_done),
            )
            for w in workers
        ],
        empty="no worker yet",
    )  # fmt: skip


def gate_table(workers: Sequence[WorkerView]) -> list[RenderableType]:
    """What sessions need of each worker's memory, where the profile counts that."""
    counted = [w for w in workers if w.need_tokens is not None]
    if not counted:
        return []
    rows = [
        (
            w.id, count(w.need_tokens), count(w.limit_tokens), needed(w), factor(w), str(w.live_sessions),
            str(w.held_sessions),
        )
        for w in counted
    ]  # fmt: skip
    titles = ("*WORKER", ">NEED", ">LIMIT", ">FULL", ">FACTOR", ">LET IN", ">PAUSED")
    return [Text(), Grid(*titles, rows=rows, empty="")]


def needed(w: WorkerView) -> str:
    """How much of what it may take is needed."""
    return share(w.need_tokens or 0, w.limit_tokens or 0)


def factor(w: WorkerView) -> str:
    return UNKNOWN if w.factor is None else f"{w.factor:.2f}"


def reason_lines(workers: Sequence[WorkerView]) -> list[Text]:
    """Why a worker is not ready, below its table."""
    return [Text(plain(f"{w.id}: {w.reason}"), style="red") for w in workers if w.reason]


def age_s(workflow: WorkflowView, now: float) -> float:
    """Its completion time once it ended, else how long it has been there."""
    return workflow.tct_s if workflow.tct_s is not None else max(0.0, now - workflow.submitted_at)


def standing(w: WorkflowView) -> Text:
    """Its state; or that it is held at the gate and for how long, or paused."""
    if w.held_s is not None:
        return state_text("held", w.held_s)
    return state_text("paused" if w.paused and w.state in {"tool", "running"} else w.state)


def named(w: WorkflowView) -> Text:
    """Its name, behind its priority if it has one: `↑5 agent.py`."""
    name = plain(w.name or UNKNOWN)
    if not w.priority:
        return Text(name)
    mark = (f"↑{w.priority}", "bold cyan") if w.priority > 0 else (f"↓{-w.priority}", "dim")
    return Text.assemble(mark, f" {name}")


def workflow_table(workflows: Sequence[WorkflowView], now: float) -> RenderableType:
    """`saga ps`. `now` in seconds since the epoch."""
    return Grid(
        ">ID", "*NAME", "STATE", "*AGENT", ">STEPS", "HOME", ">TOKENS", ">CACHED", ">TIME",
        rows=[
            (
                str(w.id), named(w), standing(w), w.agent_type or UNKNOWN,
                str(w.steps), w.home or UNKNOWN, count(w.prompt_tokens + w.output_tokens),
                share(w.cached_tokens, w.prompt_tokens), duration(age_s(w, now)),
            )
            for w in workflows
        ],
        empty="no workflow (`saga submit` starts one; `saga ps --all` lists the ended ones too)",
    )  # fmt: skip


def workflow_details(workflow: WorkflowView, now: float) -> RenderableType:
    """`saga inspect`."""
    return Group(pairs(_workflow_facts(workflow, now)), Text(), session_table(workflow.sessions))


def _workflow_facts(w: WorkflowView, now: float) -> dict[str, str | Text]:
    from saga_cli.output import iso

    facts: dict[str, str | Text] = {
        "workflow": f"{w.id} {w.name}".rstrip(),
        "state": standing(w),
        "kind": w.kind,
        "agent type": w.agent_type or UNKNOWN,
        "tenant": w.tenant,
        **({"priority": str(w.priority)} if w.priority else {}),
        "submitted": iso(w.submitted_at),
        "started": iso(w.started_at) if w.started_at is not None else UNKNOWN,
        "ended": iso(w.ended_at) if w.ended_at is not None else UNKNOWN,
        "time": duration(age_s(w, now)),
        "steps": f"{w.steps} ({w.running_steps} running)" if w.running_steps else str(w.steps),
        "home": w.home or UNKNOWN,
        "tokens": f"{w.prompt_tokens} prompt ({share(w.cached_tokens, w.prompt_tokens)} cached), {w.output_tokens} written",
    }
    facts |= {"exit code": str(w.exit_code)} if w.exit_code is not None else {}
    return facts | ({"reason": w.reason} if w.reason else {})


def session_table(sessions: Sequence[SessionView]) -> RenderableType:
    gated = any(s.gate for s in sessions)
    rows = [
        (
            s.id, state_text(s.state), s.home or UNKNOWN, str(s.steps), count(s.context_tokens),
            count(s.resident_tokens), *((at_gate(s.gate, s.waits_s),) if gated else ()),
        )
        for s in sessions
    ]  # fmt: skip
    titles = ("*SESSION", "STATE", "HOME", ">STEPS", ">CONTEXT", ">RESIDENT", *(("GATE",) if gated else ()))
    return Grid(*titles, rows=rows, empty="no session yet: it has made no step")


def at_gate(gate: str, seconds: float | None) -> Text:
    """`in`, `held 12s`, `paused 3m12s`, or `paused` where no step waits."""
    return state_text(gate or UNKNOWN, seconds)


def settings_table(values: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """`saga config show`: name, value, origin."""
    return Grid(
        "SETTING", "*VALUE", "*ORIGIN",
        rows=[(name, shown(item["value"]) or UNKNOWN, str(item["origin"])) for name, item in values.items()],
        empty="no setting",
    )  # fmt: skip


def shown(value: object) -> str:
    """A setting's value as --set takes it."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
