"""The cause of a worker's death, from the ends of real logs of vLLM 0.32.0 (paths shortened)."""

from pathlib import Path

import pytest

from saga_vllm.diagnose import LONGEST_REASON, reason_from_log

DATA = Path(__file__).parent / "data"

REASONS = {
    "port-taken": "the port was taken by another process before the worker could bind it",
    "model-missing": "the model folder /models/nope does not exist on this node",
    "model-empty": "/models/empty holds no model (no config.json), or is not in this node's cache:"
    " saga starts workers offline",
    "kv-too-small": "the KV pool is too small for one request of 32768 tokens (it fits 1920):"
    " give more KV memory or a lower max_model_len",
    "block-size": "no attention kernel of this platform takes blocks of 16 tokens (CPU_ATTN: [MultipleOf(32)])",
    "max-model-len": "max_model_len 400000 is more than the model can do (at most 65536)",
    "no-memory": "too little free memory: 8.02 of 8.96 GiB, and no KV size was given",
    "no-vllm": "vLLM is not installed in the worker's Python environment",
    "unknown-flag": "this vLLM does not take these options: unrecognized arguments: --no-such-flag",
}


def test_every_recording_has_its_reason() -> None:
    assert {path.stem.removeprefix("vllm-0.32-") for path in DATA.glob("vllm-0.32-*.log")} == set(REASONS)


@pytest.mark.parametrize("name", sorted(REASONS))
def test_reason_of_a_recorded_death(name: str) -> None:
    assert reason_from_log((DATA / f"vllm-0.32-{name}.log").read_text()) == REASONS[name]


def test_an_unknown_cause_is_the_engines_exception_and_not_the_symptom() -> None:
    log = (DATA / "vllm-0.32-block-size.log").read_text().replace("No common block size", "A new complaint")
    assert reason_from_log(log) == "ValueError: A new complaint for 16 (CPU_ATTN: [MultipleOf(32)])."


def test_a_log_without_an_exception_gives_its_last_line() -> None:
    assert reason_from_log("(EngineCore pid=7) INFO 11-22 17:58:20 [core.py:15] loading\n\n") == "loading"


def test_a_warning_that_quotes_an_error_is_no_cause() -> None:
    warning = (
        "(APIServer pid=1) WARNING 11-22 17:58:05 [system_utils.py:255] like `OSError: [Errno 24] Too many`\n"
    )
    assert reason_from_log(warning + "Killed") == "Killed"


def test_an_empty_log_and_an_endless_line() -> None:
    assert reason_from_log("") == "the worker wrote nothing to its log"
    assert len(reason_from_log("RuntimeError: " + "x" * 5000)) == LONGEST_REASON
