"""The whole house on real vLLM workers: up, agents, a worker killed in mid-stream, the head killed, down.

One cluster for the file, since a worker takes some fifteen seconds to start; the tests run in order.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from saga_vllm.model import VOCABULARY_TOKENS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

MODEL = "nano"
START_S = 240.0


class Cluster:
    """`saga` on a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = contextlib.ExitStack()
        """Clients; closed at the end."""

    def saga(self, *words: str, check: bool = True, output: str = "json") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "saga_cli", "--cluster-dir", str(self.folder), "--output", output, *words],
            capture_output=True, text=True, timeout=START_S + 60, check=False,
            env=os.environ | {"SAGA_HEAD_STOP_GRACE_S": "2"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"saga {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def up(self) -> None:
        self.saga(
            "up", "--local", "--workers", "2", "--model", MODEL, "--timeout", str(START_S),
            "--set", "workers.kv_tokens=16384", "--set", "workers.max_model_len=8192",
        )  # fmt: skip

    def view(self) -> dict:
        return json.loads(self.saga("status").stdout)

    @property
    def access(self) -> dict:
        return json.loads((self.folder / "access.json").read_text())

    def until(self, fact: Callable[[dict], bool], what: str, deadline_s: float = START_S) -> dict:
        end = time.monotonic() + deadline_s
        while not fact(view := self.view()):
            assert time.monotonic() < end, f"not within {deadline_s} s: {what}: {view}"
            time.sleep(0.5)
        return view

    def client(self, **more: object) -> openai.OpenAI:
        found = openai.OpenAI(
            base_url=self.access["url"] + "/v1", api_key=self.access["api_key"], max_retries=0, **more
        )
        return self.opened.enter_context(found)

    def family(self) -> list[psutil.Process]:
        """Every process that names this folder, and its descendants."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join(process.cmdline()) and process.pid != os.getpid():
                    found |= {process, *process.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("saga"))
    try:
        found.up()
        yield found
    finally:
        found.opened.close()
        found.saga("down", "--force", check=False)
        for process in found.family():
            process.kill()


def ready(view: dict) -> int:
    return sum(worker["state"] == "ready" for worker in view["workers"])


def message(words: int) -> list:
    return [{"role": "user", "content": " ".join(f"word{i}" for i in range(words))}]


def test_a_second_turn_finds_its_cache_through_the_gateway(cluster: Cluster) -> None:
    client = cluster.client(default_headers={"X-Session-ID": "two-turns"})
    ask = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    first = client.chat.completions.with_raw_response.create(messages=message(400), **ask)
    again = client.chat.completions.with_raw_response.create(messages=message(400), **ask)
    assert first.headers["x-saga-worker"] == again.headers["x-saga-worker"]
    usage = again.parse().usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) >= 0.8 * usage.prompt_tokens
    cluster.until(
        lambda view: any(worker["resident_tokens"] for worker in view["workers"]),
        "residency by KV events",
        20,
    )


def test_what_the_engines_can_do_was_tried_and_is_told(cluster: Cluster) -> None:
    for worker in cluster.view()["workers"]:
        found = {name: (works, detail) for name, works, detail in worker["capabilities"]}
        assert {name: works for name, (works, _) in found.items()} == {
            "prefix hits": True,
            "events": True,
            "session control": True,
            "tiers": None,
            "priority": found["priority"][0],
            "moving": True,
        }, found
        assert found["priority"][0] is not False
        assert (worker["holes"], worker["healed"]) == (0, 0)


def test_streams_and_errors_look_like_openais(cluster: Cluster) -> None:
    client = cluster.client()
    ask = {"model": MODEL, "max_tokens": 8, "messages": message(20)}
    stream = client.chat.completions.create(
        **ask, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}
    )
    usage = [chunk.usage for chunk in stream if chunk.usage]
    assert usage[-1].completion_tokens == 8
    with pytest.raises(openai.NotFoundError, match=r"does not exist \(have: nano\)"):
        client.chat.completions.create(**ask | {"model": "gpt-5"})
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(**ask | {"messages": message(9000)})
    with pytest.raises(openai.AuthenticationError, match="saga url --key"):
        client.with_options(api_key="sk-wrong").chat.completions.create(**ask)
    assert {model.id for model in client.models.list()} == {MODEL}


PROGRAM = """
import os, openai
client = openai.OpenAI()
text = "a tool said something " * 30
for turn in range(3):
    reply = client.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": text}], max_tokens=8, temperature=0)
    text += reply.choices[0].message.content + " and then this " * 10
print("turns done")
"""


def test_a_program_is_served_as_one_workflow(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(PROGRAM)
    cluster.saga("submit", "--wait", "--name", "agent", "--", sys.executable, str(program))
    assert "turns done" in cluster.saga("logs", "last", output="table").stdout
    found = json.loads(cluster.saga("inspect", "last").stdout)
    assert (found["state"], found["steps"], found["exit_code"]) == ("done", 3, 0)


def test_a_replay_finishes_with_the_traces_counts(cluster: Cluster, tmp_path: Path) -> None:
    trace = tmp_path / "small.jsonl.gz"
    cluster.saga("trace", "synth", str(trace), "--workflows", "2", "--seed", "5")
    done = cluster.saga(
        "submit",
        "--replay",
        str(trace),
        "--scale-time",
        "0.05",
        "--scale-tokens",
        "0.25",
        "--max-context",
        "4096",
    )
    summary = json.loads(done.stdout)["summary"]
    assert (summary["workflows"], summary["finished"], summary["mismatches"]) == (2, 2, 0), summary


TOKENS = 1500


async def test_a_worker_killed_in_mid_stream_is_gone_on_with_and_comes_back(cluster: Cluster) -> None:
    """Three streams of three APIs on one worker.

    Random weights say what no text stands for: with whole words only, the text tells which tokens they are. Messages
    have no words for that; there, what comes behind the loss is what the engine says behind the text before it.
    """
    anthropic = pytest.importorskip("anthropic", reason="it comes with vLLM, which is not installed")
    access = cluster.access
    found = openai.AsyncOpenAI(base_url=access["url"] + "/v1", api_key=access["api_key"], max_retries=0)
    other = anthropic.AsyncAnthropic(base_url=access["url"], api_key=access["api_key"], max_retries=0)
    async with found as client, other as claude:
        worker, expected = await three_streams(cluster, client, claude)
        before = await asyncio.to_thread(cluster.view)
        server = _server(cluster, worker)
        doomed, said = await three_streams(
            cluster, client, claude, lambda: os.killpg(os.getpgid(server.pid), signal.SIGKILL)
        )
        assert doomed == worker
        chat_goes_on(said["chat"], expected["chat"])
        responses_go_on(said["responses"], expected["responses"])
        stored = await client.responses.retrieve(said["responses"][-1].response.id)
        assert stored.output_text == said["responses"][-1].response.output_text
        await messages_go_on(cluster, client, said["messages"], said["heard since"])
        metrics = await asyncio.to_thread(urllib.request.urlopen, access["url"] + "/metrics")
        assert b"saga_steps_resumed_total 3.0" in metrics.read()
        # Meanwhile the other worker serves, also those who were at home on the dead one.
        answer = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=message(10), max_tokens=2
        )
        assert answer.headers["x-saga-worker"] != worker
        incarnation = {w["id"]: w["incarnation"] for w in before["workers"]}[worker]
        await asyncio.to_thread(
            cluster.until,
            lambda view: any(
                w["id"] == worker and w["state"] == "ready" and w["incarnation"] > incarnation
                for w in view["workers"]
            ),
            "the worker is back",
        )


async def three_streams(
    cluster: Cluster, client: Any, claude: Any, kill: Callable[[], None] | None = None
) -> tuple[str, dict[str, list[Any]]]:
    """Their worker and their events; it is killed when the chat has said a part."""
    ask = {
        "model": MODEL, "stream": True,
        "extra_headers": {"X-Session-ID": "doomed"},  # all go to one worker
    }  # fmt: skip
    words = whole_words(cluster)
    barred = {str(token): -100 for token in range(VOCABULARY_TOKENS) if token not in words}
    replies = await asyncio.gather(
        client.chat.completions.with_raw_response.create(
            messages=message(10), max_tokens=TOKENS, stream_options={"include_usage": True}, temperature=0,
            extra_body={"ignore_eos": True, "allowed_token_ids": words}, **ask,
        ),
        client.responses.with_raw_response.create(
            input=message(10), max_output_tokens=TOKENS, temperature=0,
            extra_body={"ignore_eos": True, "logit_bias": barred}, **ask,
        ),
        claude.messages.with_raw_response.create(
            messages=message(10), max_tokens=TOKENS, extra_body={"temperature": 0}, **ask
        ),
    )  # fmt: skip
    workers = {reply.headers["x-saga-worker"] for reply in replies}
    assert len(workers) == 1
    said: dict[str, list[Any]] = {"chat": [], "responses": [], "messages": []}
    heard: list[tuple[float, Any]] = []

    async def hear(name: str, events: Any) -> None:
        async for event in await events if inspect.isawaitable(events) else events:
            said[name].append(event)
            heard.append((time.monotonic(), event))
            if kill is not None and name == "chat" and len(said[name]) == TOKENS // 6:
                kill()
                heard.clear()

    await asyncio.gather(*[hear(name, reply.parse()) for name, reply in zip(said, replies, strict=True)])
    said["heard since"] = heard
    return workers.pop(), said


def chat_goes_on(said: list[Any], expected: list[Any]) -> None:
    assert len(set(words(expected).split())) > 20, "it does not say one word all the time"
    assert words(said) == words(expected)
    assert len({chunk.id for chunk in said}) == 1
    assert said[-2].choices[0].finish_reason == "length"
    assert usage(said) == usage(expected) == (usage(expected)[0], TOKENS)


def responses_go_on(said: list[Any], expected: list[Any]) -> None:
    final, whole = said[-1].response, expected[-1].response
    assert len(set(whole.output_text.split())) > 20
    assert final.output_text == whole.output_text
    assert (
        "".join(event.delta for event in said if event.type == "response.output_text.delta")
        == final.output_text
    )
    assert [event.type for event in said if "delta" not in event.type] == [
        event.type for event in expected if "delta" not in event.type
    ]
    assert [event.sequence_number for event in said] == list(range(len(said)))
    assert (final.id, final.status, final.max_output_tokens) == (said[0].response.id, "incomplete", TOKENS)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (whole.usage.input_tokens, TOKENS)


async def messages_go_on(
    cluster: Cluster, client: Any, said: list[Any], since: list[tuple[float, Any]]
) -> None:
    """`since`: what was heard after the loss, and when: the other worker's first word comes after a long silence."""
    assert [event.type for event in said if event.type != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    first, end = said[0].message.usage, said[-2]
    assert end.delta.stop_reason in ("max_tokens", "end_turn")
    assert (end.usage.output_tokens == TOKENS) == (end.delta.stop_reason == "max_tokens")
    assert sum_of(end.usage) == sum_of(first)
    chat = await client.chat.completions.create(
        model=MODEL, messages=message(10), max_tokens=1, extra_body={"return_token_ids": True}
    )
    prompt, tokenizer = chat.prompt_token_ids, tokenizer_of(cluster)
    assert len(prompt) == sum_of(first)
    told = [event for event in said if event.type == "content_block_delta"]
    heard = [(at_s, event) for at_s, event in since if getattr(event, "type", "") == "content_block_delta"]
    silences = sorted(
        ((b[0] - a[0], b[1]) for a, b in itertools.pairwise(heard)), key=lambda found: -found[0]
    )
    places = [next(i for i, one in enumerate(told) if one is event) for _, event in silences]

    async def follows(before: str, behind: str, tokens: int) -> bool:
        ids = tokenizer.encode(before, add_special_tokens=False).ids
        rest = await client.completions.create(
            model=MODEL, prompt=[*prompt, *ids], max_tokens=tokens, temperature=0
        )
        words = rest.choices[0].text.rstrip("\ufffd")
        return behind.startswith(words) and bool(words or not behind)

    for seam in [*places, len(told)]:  # on a busy machine other silences are as long
        before, behind = ["".join(event.delta.text for event in part) for part in (told[:seam], told[seam:])]
        if await follows(before, behind, 4) and await follows(before, behind, 32):
            return
    raise AssertionError("what was said behind the loss does not follow from what was said before it")


def sum_of(usage: Any) -> int:
    return (
        usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    )


def words(said: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in said if chunk.choices)


def usage(said: list[Any]) -> tuple[int, int]:
    return said[-1].usage.prompt_tokens, said[-1].usage.completion_tokens


def tokenizer_of(cluster: Cluster) -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="it comes with vLLM, which is not installed")
    line = _server(
        cluster, next(w["id"] for w in cluster.view()["workers"] if w["state"] == "ready")
    ).cmdline()
    return tokenizers.Tokenizer.from_file(line[line.index("--model") + 1] + "/tokenizer.json")


def whole_words(cluster: Cluster) -> list[int]:
    """Tokens that a text is made of again, whatever stands beside them."""
    known = tokenizer_of(cluster)
    found = [i for word, i in known.get_vocab().items() if re.fullmatch("Ġ[a-z]{3,}", word)]
    return [i for i in found if known.encode(known.decode([i]), add_special_tokens=False).ids == [i]]


def _server(cluster: Cluster, worker: str) -> psutil.Process:
    """The API server of `worker`, told from its sister by the log it writes to."""
    name = "worker-" + worker.replace("/", "-")
    for process in cluster.family():
        with contextlib.suppress(psutil.Error, OSError):
            if name in os.readlink(f"/proc/{process.pid}/fd/2") and os.getpgid(process.pid) == process.pid:
                return process
    raise AssertionError(f"no process writes the log of {worker}")


def test_the_head_killed_and_started_again_keeps_what_it_accepted(cluster: Cluster) -> None:
    cluster.saga("submit", "--name", "sleeper", "--", sys.executable, "-c", "import time; time.sleep(60)")
    cluster.until(lambda view: any(w["name"] == "sleeper" for w in view["workflows"]), "accepted", 20)
    url = cluster.access["url"]
    os.kill(cluster.access["pid"], signal.SIGKILL)
    refused = cluster.saga("status", check=False)
    assert refused.returncode == 1
    assert "saga up" in refused.stderr
    cluster.up()
    assert cluster.access["url"] == url
    view = cluster.until(lambda view: ready(view) == 2, "both workers are taken over", 60)
    names = {w["name"]: w["state"] for w in view["workflows"]}
    assert names["agent"] == "done"
    assert names["sleeper"] in ("accepted", "running")
    answer = cluster.client().chat.completions.create(model=MODEL, messages=message(5), max_tokens=2)
    assert answer.usage is not None
    cluster.saga("cancel", "last")
    cluster.saga("wait", "last", check=False)


def test_down_leaves_nothing(cluster: Cluster) -> None:
    family = cluster.family()
    cluster.saga("down", "--force")
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not (cluster.folder / "access.json").exists()
    assert cluster.saga("status", check=False).returncode == 1
