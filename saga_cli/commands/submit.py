"""`saga submit`: a program to run on the cluster, or recordings to replay on it."""

from __future__ import annotations

import typer

from saga_cli.commands.submit_options import (
    AgentType,
    Concurrency,
    Cpus,
    Deadline,
    Entries,
    Env,
    Graph,
    Instance,
    Limit,
    MaxContext,
    Memory,
    Name,
    Priority,
    Program,
    Replay,
    Results,
    Retries,
    ScaleTime,
    ScaleTokens,
    Seed,
    Steps,
    Synth,
    Tenant,
    Wait,
    Work,
    Workdir,
    Workflows,
)
from saga_cli.options import command, given

EXAMPLES = (
    "saga submit -- python agent.py                       # one program, one workflow",
    "saga submit --deadline 600 --wait -- python agent.py # its end decides the exit code",
    "saga submit --tasks swe.jsonl -- python agent.py {instance}",
    "                                                     # one per line; again: what is not done yet",
    "saga submit --synth demo                             # a made workload",
)


def declare(app: typer.Typer) -> None:
    settings = {"allow_interspersed_args": False}
    command(app, "submit", context_settings=settings, examples=EXAMPLES)(submit)


def submit(
    ctx: typer.Context,
    program: Program = None,
    name: Name = "",
    agent_type: AgentType = "",
    tenant: Tenant = "default",
    env: Env = None,
    workdir: Workdir = None,
    work_s: Work = None,
    steps: Steps = None,
    instance: Instance = "",
    deadline: Deadline = None,
    priority: Priority = 0,
    cpus: Cpus = 0,
    mem: Memory = "",
    aeg: Graph = None,
    wait: Wait = False,
    tasks: Entries = None,
    results: Results = None,
    retries: Retries = 0,
    replay: Replay = None,
    synth: Synth = None,
    workflows: Workflows = None,
    limit: Limit = None,
    scale_tokens: ScaleTokens = 1.0,
    scale_time: ScaleTime = 1.0,
    max_context: MaxContext = None,
    concurrency: Concurrency = None,
    seed: Seed = 0,
) -> None:
    """Run a program, or replay recorded workflows.

    A program finds the endpoint of its own workflow in OPENAI_BASE_URL. What is said of it (--work-s, --steps,
    --deadline, --instance, --aeg) is believed as far as its tenant's words have proved right.

    With --tasks, what is done is kept in the result file and never runs again: after an interruption, the same
    command goes on. How many run at once follows from what the workers' memory takes.
    """
    from saga_cli.entries import Template
    from saga_cli.replaying import Workload
    from saga_cli.submission import Said, memory
    from saga_cli.submitting import Asked

    template = Template(
        program=tuple(program or ()), name=name, agent_type=agent_type, tenant=tenant, env=tuple(env or ()), workdir=workdir,
        said=Said(work_s=work_s, steps=steps, instance=instance, deadline_s=deadline, file=aeg, priority=priority),
        cpus=cpus, memory_bytes=memory(mem),
    )  # fmt: skip
    load = Workload(
        files=replay or (), synth=synth, workflows=workflows, limit=limit, scale_tokens=scale_tokens,
        scale_time=scale_time, max_context=max_context, concurrency=concurrency, seed=seed,
    )  # fmt: skip
    asked = Asked(template=template, load=load, tasks=tasks, results=results, retries=retries, wait=wait)
    raise typer.Exit(asked.go(given(ctx)))
