"""Why did the worker die? Its log says so, 60 lines of traceback above its end.

vLLM's last line is nearly always "Engine core initialization failed. See root cause above"; the root cause is the
engine's own exception. The texts are those of 0.32.0, recorded in tests/workers/data.
"""

import re

# The root cause stood at most 12 KB before the end in the recorded logs.
TAIL_BYTES = 64 << 10
LONGEST_REASON = 300

# "(EngineCore pid=7) ERROR 11-22 17:58:20 [core.py:1510] " before each line of a logged traceback.
_PREFIX = re.compile(r"^\(\w+ pid=\d+\) ([A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] ?)?", re.MULTILINE)

_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?:: .*)?$", re.MULTILINE
)

# What vLLM's outer processes say when an inner one died.
_SYMPTOMS = (
    "Engine core initialization failed",
    "EngineCore encountered an issue",
    "EngineDeadError",
    "WorkerProc ",
)

_CAUSES = (
    (
        re.compile(r"OSError: \[Errno 98\]|error while attempting to bind on address"),
        "the port was taken by another process before the worker could bind it",
    ),
    (
        re.compile(r"max seq len \((\d+)\).*?estimated maximum model length is (\d+)", re.DOTALL),
        "the KV pool is too small for one request of {0} tokens (it fits {1}): give more KV memory or a lower max_model_len",
    ),
    (
        re.compile(r"No available memory for the cache blocks"),
        "no memory is left for the KV pool: give it more memory or take a smaller model",
    ),
    (
        re.compile(
            r"max_model_len \((\d+)\) is greater than the derived max_model_len \(max_position_embeddings=(\d+)"
        ),
        "max_model_len {0} is more than the model can do (at most {1})",
    ),
    (
        re.compile(r"HFValidationError: Repo id must be in the form .*?: '([^']*)'"),
        "the model folder {0} does not exist on this node",
    ),
    (
        re.compile(
            r"OSError: Can't load the configuration of '([^']*)'|OSError: (\S+) does not appear to have a file named config"
        ),
        "{0} holds no model (no config.json)",
    ),
    (
        re.compile(r"Invalid repository ID or local directory specified: '([^']*)'"),
        "{0} holds no model (no config.json), or is not in this node's cache: saga starts workers offline",
    ),
    (
        re.compile(r"No common block size for (\d+) \((.*?)\)\."),
        "no attention kernel of this platform takes blocks of {0} tokens ({1})",
    ),
    (
        re.compile(r"Available memory on node \d+ \(([\d.]+)/([\d.]+) GiB\) on startup is less than"),
        "too little free memory: {0} of {1} GiB, and no KV size was given",
    ),
    (
        re.compile(r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\) on startup is less than"),
        "the GPU is in use: only {0} of {1} GiB are free",
    ),
    (re.compile(r"OutOfMemoryError: (CUDA out of memory[^.]*)"), "the GPU's memory is too small: {0}"),
    (
        re.compile(r"error: (unrecognized arguments: .*|argument .*)"),
        "this vLLM does not take these options: {0}",
    ),
    (re.compile(r"No module named '?(vllm)\b"), "vLLM is not installed in the worker's Python environment"),
    (re.compile(r"No space left on device"), "no space is left on the device (disk or /dev/shm)"),
)


def reason_from_log(tail: str) -> str:
    """The cause of death in one line, from the end of a worker's log (TAIL_BYTES of it); never empty."""
    plain = _PREFIX.sub("", tail)
    for pattern, text in _CAUSES:
        if match := pattern.search(plain):
            return _short(text.format(*filter(None, match.groups())))
    exceptions = [
        line for line in _EXCEPTION.findall(plain) if not any(symptom in line for symptom in _SYMPTOMS)
    ]
    if exceptions:
        return _short(exceptions[-1])
    lines = [line for line in plain.splitlines() if line.strip()]
    return _short(lines[-1]) if lines else "the worker wrote nothing to its log"


# A frame of ours, or an error that names what we put on the command line. vLLM prints that line at each start as well.
_PLUGIN_FRAME = re.compile(r'File "[^"]*saga_vllm/plugin/\w+\.py", line')
_PLUGIN_WORDS = re.compile(r"saga_|SagaConnector|KV connector|--middleware|--kv-transfer-config")


def plugin_fault(tail: str) -> str:
    """Why a start died of the plugin in the engine, from the end of its log; empty: not of that."""
    plain = _PREFIX.sub("", tail)
    errors = [
        *_EXCEPTION.findall(plain),
        *re.findall(r"error: (?:unrecognized arguments:|argument) .*", plain),
    ]
    named = [line for line in errors if _PLUGIN_WORDS.search(line)]
    if not named and not _PLUGIN_FRAME.search(plain):
        return ""
    reason = named[-1] if named else reason_from_log(tail)
    return _short(f"the engine did not start with session control: {reason}")


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= LONGEST_REASON else f"{one_line[: LONGEST_REASON - 1]}…"
