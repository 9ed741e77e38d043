"""Slurm's answers as text, read. Pure: text in, facts out.

Rules of this file
  1. Fields are asked for by a fixed format with a separator that cannot be in them (`SEPARATOR`); the human
     tables and the JSON of Slurm change with its version (docs/slurm.md), these do not from 22.05 to 26.05.
  2. Times are asked for as seconds since the epoch (SLURM_TIME_FORMAT=%s).
  3. What is not understood is an error that shows the line.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from saga_slurm.facts import Job, JobState, Node, Partition, SlurmError, Step, Version

SEPARATOR: Final = "\x1f"
"""ASCII "unit separator"."""
TIME_FORMAT: Final = "%s"
UNLIMITED: Final = frozenset({"UNLIMITED", "infinite", "INFINITE", "NOT_SET"})
_NOTHING: Final = frozenset({"", "(null)", "N/A", "n/a", "None", "NONE", "Unknown", "NOT_SET"})


def _format(*fields: str) -> str:
    return SEPARATOR.join(fields)


JOB_FORMAT: Final = _format(
    "%i", "%T", "%r", "%j", "%k", "%P", "%N", "%D", "%V", "%S", "%e", "%B"
)  # fmt: skip
"""For `squeue -o`."""
NODE_FORMAT: Final = _format("%N", "%T", "%c", "%m", "%G", "%E")
"""For `sinfo -N -o`."""
PARTITION_FORMAT: Final = _format("%P", "%a", "%l", "%D", "%G")
"""For `sinfo -o`."""
STEP_FORMAT: Final = _format("%i", "%j", "%N")
"""For `squeue -s -o`."""


def read_jobs(text: str) -> dict[str, Job]:
    """The jobs of `squeue -h -t all -o JOB_FORMAT`, by id."""
    return {job.id: job for job in map(_job, _lines(text))}


def _job(line: str) -> Job:
    id_, state, reason, name, comment, partition, nodelist, count, submitted, starts, ends, host = _fields(
        line, 12
    )
    return Job(
        id=id_,
        state=job_state(state, line),
        reason=_word(reason),
        name=name,
        comment=_word(comment),
        partition=partition,
        nodelist=_word(nodelist),
        node_count=_number(count, line),
        submitted_at=_time(submitted, line),
        starts_at=_time(starts, line),
        ends_at=_time(ends, line),
        batch_host=_word(host),
    )


def job_state(word: str, line: str = "") -> JobState:
    """`CANCELLED by 1000` and `RUNNING+` are how sacct and scontrol say it. SlurmError shows what is unknown."""
    plain = word.split(" ", 1)[0].split(",", 1)[0].rstrip("+")
    try:
        return JobState(plain)
    except ValueError:
        raise _unreadable(f"job state {word!r}", line or word) from None


def read_nodes(text: str) -> list[Node]:
    """The nodes of `sinfo -h -N -o NODE_FORMAT`: one each, though a node is listed once per partition."""
    found: dict[str, Node] = {}
    for line in _lines(text):
        name, state, cpus, memory, gres, reason = _fields(line, 6)
        found[name] = Node(
            name=name,
            # A suffix says what a node does beside it: `idle*` does not respond, `idle~` sleeps.
            state=state,
            cpus=_number(cpus, line),
            memory_mb=_number(memory, line),
            gres=_word(gres),
            reason="" if reason.lower() in {"none", "unknown"} else reason,
        )
    return list(found.values())


def read_partitions(text: str) -> list[Partition]:
    """The partitions of `sinfo -h -o PARTITION_FORMAT`, which has a line per kind of node."""
    found: dict[str, Partition] = {}
    for line in _lines(text):
        name, avail, limit, nodes, gres = _fields(line, 5)
        plain = name.rstrip("*")
        known = found.get(plain)
        kinds = [kind for kind in (known.gres if known else "", _word(gres)) if kind]
        found[plain] = Partition(
            name=plain,
            default=name.endswith("*"),
            up=avail == "up",
            time_limit_s=read_limit(limit, line),
            nodes=_number(nodes, line) + (known.nodes if known else 0),
            gres=",".join(dict.fromkeys(kinds)),
        )
    return list(found.values())


def read_steps(text: str) -> list[Step]:
    """The steps of `squeue -h -s -o STEP_FORMAT` that a person started: not the script, not `extern`."""
    steps = [Step(id=i, name=n, nodelist=w) for i, n, w in (_fields(line, 3) for line in _lines(text))]
    return [step for step in steps if step.id.rpartition(".")[2].isdigit()]


def read_job_id(text: str) -> str:
    """The id that `sbatch --parsable` prints: `12` or `12;cluster`."""
    for line in reversed(text.strip().splitlines()):
        found = re.fullmatch(r"(\d+)(;[\w.-]+)?", line.strip())
        if found:
            return found.group(1)
    raise _unreadable("answer of sbatch", text.strip() or "(nothing)")


def read_version(text: str) -> Version:
    """`slurm-wlm 22.05.8`, `slurm 25.11.2`, `slurm 24.11.5-1`."""
    found = re.search(r"\b(\d\d)\.(\d\d)(?:\.(\d+))?", text)
    if found is None:
        raise _unreadable("version", text.strip() or "(nothing)")
    return Version(int(found[1]), int(found[2]), int(found[3] or 0))


def read_job_record(text: str) -> Job:
    """The job of `scontrol show job -o ID`: one line of `Name=value` words, in which only a few may have blanks."""
    line = text.strip()
    # From the end, so that of two the first stands: SubmitLine (26.05) may quote anything.
    fields = dict(reversed(re.findall(r"(?:^|\s)([A-Z][\w/:.]*)=(\S*)", line)))
    if "JobId" not in fields:
        raise _unreadable("answer of scontrol show job", line or "(nothing)")
    return Job(
        id=fields["JobId"],
        state=job_state(fields.get("JobState", ""), line),
        reason=_word(fields.get("Reason", "")),
        name=fields.get("JobName", ""),
        comment=_word(fields.get("Comment", "")),
        partition=fields.get("Partition", ""),
        nodelist=_word(fields.get("NodeList", "")),
        node_count=_number(fields.get("NumNodes", "0").split("-")[0], line),
        submitted_at=_time(fields.get("SubmitTime", ""), line),
        starts_at=_time(fields.get("StartTime", ""), line),
        ends_at=_time(fields.get("EndTime", ""), line),
        batch_host=_word(fields.get("BatchHost", "")),
    )


def read_settings(text: str) -> dict[str, str]:
    """The controller's settings as `scontrol show config` lists them, `Name = value` a line."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def with_local_times(text: str) -> str:
    """Slurm's words for a person: seconds since the epoch, which we ask for, as the clock on the wall."""
    return re.sub(
        r"\b1\d{9}\b",
        lambda at: f"{datetime.fromtimestamp(int(at[0]), UTC).astimezone():%Y-%m-%d %H:%M:%S}",
        text,
    )


def read_limit(text: str, line: str = "") -> float | None:
    """Seconds of a time limit as Slurm writes them: `30:00`, `8:00:00`, `1-00:00:00`; None: no limit."""
    if text in UNLIMITED:
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        raise _unreadable("time limit", line or text)
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _fields(line: str, number: int) -> list[str]:
    fields = [field.strip() for field in line.split(SEPARATOR)]
    if len(fields) != number:
        raise _unreadable(f"line of {len(fields)} fields, {number} are valid", line)
    return fields


def _word(text: str) -> str:
    return "" if text in _NOTHING else text


def _number(text: str, line: str) -> int:
    """`64000`, or `16+` where nodes of one line differ: the least of them."""
    found = re.fullmatch(r"(\d+)\+?", text)
    if found is None:
        raise _unreadable(f"number {text!r}", line)
    return int(found[1])


def _time(text: str, line: str) -> float | None:
    if _word(text) == "":
        return None
    if not text.isdigit():
        raise _unreadable(f"time {text!r}", line)
    return float(text)


def _unreadable(what: str, line: str) -> SlurmError:
    shown = line.replace(SEPARATOR, "|")
    return SlurmError(f"Slurm's answer is not understood: {what} in {shown!r}")
