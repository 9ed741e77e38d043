"""Tenants: keys that open and close, quotas that are told with a time, weights, and caches kept apart."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from head_rig import HeadProcess, RigNode, running_head

from saga_core.book import KEEP_ENDED, Book
from saga_core.errors import UserError
from saga_core.ids import TenantId, WorkflowId
from saga_core.tenants import Tenant, TenantRequest, changed, check_name
from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer
from saga_head.keys import Callers
from saga_head.tenants import FILE, Tenants

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 4}


class Now:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def tenants(tmp_path: Path, now: Now) -> Tenants:
    return Tenants(tmp_path / FILE, Callers("sk-default"), Book("saga"), now)


def test_a_key_opens_until_it_is_revoked_and_is_kept_as_a_digest(
    tmp_path: Path, now: Now, tenants: Tenants
) -> None:
    made = tenants.add("physics", TenantRequest())
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.key not in path.read_text()
    assert hashlib.sha256(made.key.encode()).hexdigest() in path.read_text()
    callers = Callers("sk-default")
    again = Tenants(path, callers, Book("saga"), now)
    found = callers.find(made.key)
    assert found is not None
    assert (found.tenant, found.workflow) == ("physics", None)
    callers.add("wf-1", TenantId("physics"), WorkflowId(1))
    for ended in range(1, KEEP_ENDED + 2):
        assert callers.find("wf-1") is not None, "known as long as its workflow is in the book"
        callers.over(WorkflowId(ended))
    assert callers.find("wf-1") is None
    assert callers.find(made.key) == found, "only tokens of workflows are let go"
    second = again.add_key("physics")
    again.revoke("physics", made.id)
    assert callers.find(made.key) is None
    assert callers.find(second.key) is not None
    with pytest.raises(UserError, match="key"):
        again.revoke("physics", made.id)


def test_steps_per_minute_are_let_in_as_they_come_due(now: Now, tenants: Tenants) -> None:
    tenants.add("physics", TenantRequest(steps_per_min=12))
    assert [tenants.refusal("physics", opens=False) for _ in range(2)] == [None, None], (
        "those of ten seconds at once"
    )
    refusal = tenants.refusal("physics", opens=False)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "tenant_steps", 5)
    now.at += 5.0
    assert tenants.refusal("physics", opens=False) is None
    assert tenants.refusal("physics", opens=False) is not None
    now.at += 3600.0
    assert [tenants.refusal("physics", opens=False) is None for _ in range(3)] == [True, True, False]
    tenants.limit("physics", TenantRequest(steps_per_min=0))
    assert tenants.refusal("physics", opens=False) is None
    assert tenants.refusal("a-stranger-to-the-file", opens=True) is None


def test_salts_are_a_tenants_own(tmp_path: Path, now: Now, tenants: Tenants) -> None:
    salts = {tenants.salt(name, given) for name in ("a", "b") for given in (None, "x", "y")}
    assert len(salts) == 6
    assert all(salt is not None and len(salt) == 43 for salt in salts)
    assert tenants.salt("default", None) is tenants.salt("default", "mine") is None
    again = Tenants(tmp_path / FILE, Callers("k"), Book("saga"), now)
    assert again.salt("a", None) == tenants.salt("a", None)
    other = tmp_path / "other"
    other.mkdir()
    assert Tenants(other / FILE, Callers("k"), Book("saga"), now).salt("a", None) != tenants.salt("a", None)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "ä", "x" * 64, "a\n"])
def test_odd_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no name for a tenant"):
        check_name(name)


@pytest.mark.parametrize(
    "wanted",
    [
        {"weight": 0.0},
        {"weight": float("inf")},
        {"weight": float("nan")},
        {"max_workflows": -1},
        {"steps_per_min": 10**9},
    ],
)
def test_limits_out_of_range_are_refused(wanted: dict[str, float]) -> None:
    with pytest.raises(UserError, match="out of range"):
        changed(Tenant(name="a"), TenantRequest(**wanted))  # type: ignore[arg-type]


# -- a head ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[tuple[HeadProcess, FakeServer]]:
    async with (
        running_head(folder) as head,
        FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0)) as engine,
    ):
        node = RigNode(head.access)
        await node.serve(engine.url)
        reports = asyncio.create_task(node.reporting())
        try:
            yield head, engine
        finally:
            reports.cancel()
            await node.close()


async def ask(head: HeadProcess, key: str, **headers: str) -> tuple[int, dict, dict]:
    url = f"{head.access.url}/v1/chat/completions"
    async with head.http.post(
        url, json=PROMPT, headers={"Authorization": f"Bearer {key}"} | headers
    ) as reply:
        return reply.status, await reply.json(), {k.lower(): v for k, v in reply.headers.items()}


async def add(head: HeadProcess, name: str, **limits: object) -> str:
    status, made = await head.call("POST", "/saga/v1/tenants", {"name": name} | limits)
    assert status == 201, made
    return made["key"]


async def test_tenants_on_a_cluster(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (head, _):
        one = await add(head, "physics", weight=3.0, max_workflows=1)
        other = await add(head, "biology")
        assert (await head.call("POST", "/saga/v1/tenants", {"name": "physics"}))[0] == 400
        assert (await head.call("POST", "/saga/v1/tenants", {"name": "x"}, key=one))[0] == 401

        status, _, headers = await ask(head, one, **{"x-session-id": "s"})
        assert (status, headers["x-saga-identity"]) == (200, "x-session-id")
        status, body, headers = await ask(head, one, **{"x-session-id": "t"})
        assert (status, headers["x-saga-dropped-reason"]) == (429, "tenant_workflows")
        assert int(headers["retry-after"]) > 0
        assert "physics" in body["error"]["message"]
        assert (await ask(head, one, **{"x-session-id": "s"}))[0] == 200, "one that is there goes on"
        assert (await ask(head, one))[0] == 200, "and so does what is no workflow"

        assert (await ask(head, other, **{"x-session-id": "s"}))[0] == 200
        found = (await head.call("GET", "/saga/v1/workflows"))[1]
        mine = {w["tenant"]: w for w in found if w["name"] == "s"}
        assert mine.keys() == {"physics", "biology"}, "one name under two keys is two workflows"
        explained = (await head.call("GET", f"/saga/v1/workflows/{mine['physics']['id']}/explanation"))[1]
        assert explained["account"]["weight"] == 3.0

        listed = {t["name"]: t for t in (await head.call("GET", "/saga/v1/tenants"))[1]}
        assert (listed["physics"]["live"], listed["default"]["live"]) == (1, 0)
        assert "digest" not in json.dumps(listed)
        assert not [line for line in head.lines if one in line or other in line]

        key_id = listed["physics"]["keys"][0]["id"]
        assert (await head.call("DELETE", f"/saga/v1/tenants/physics/keys/{key_id}"))[0] == 200
        assert (await ask(head, one))[0] == 401


async def test_one_tenant_cannot_probe_anothers_cache(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (head, _):
        keys = {name: await add(head, name) for name in ("physics", "biology")} | {
            "default": head.access.api_key
        }
        cached = {}
        for name in ("default", "physics", "biology", "default", "physics", "biology"):
            status, body, _ = await ask(head, keys[name])
            assert status == 200
            cached.setdefault(name, []).append(body["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert all(first == 0 < second for first, second in cached.values()), cached


async def test_a_tenant_and_its_work_outlive_the_head(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (head, _):
        await add(head, "physics", weight=2.0, max_workflows=1)
        wanted = {"kind": "replay", "tenant": "physics"}
        assert (await head.call("POST", "/saga/v1/workflows", wanted))[0] == 201
        status, refused = await head.call("POST", "/saga/v1/workflows", wanted)
        assert (status, "physics has 1 workflows" in refused["error"]["message"]) == (503, True)
        await head.kill()
        await head.start()
        listed = {t["name"]: t for t in (await head.call("GET", "/saga/v1/tenants"))[1]}
        assert (listed["physics"]["live"], listed["physics"]["weight"]) == (1, 2.0)
        assert msgspec.json.decode((tmp_path / FILE).read_bytes())["tenants"]


async def saga(folder: Path, *words: str) -> tuple[int, str, str]:
    """The command, as a person types it."""
    command = [sys.executable, "-m", "saga_cli", "tenant", *words, "--cluster-dir", str(folder)]
    done = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, problem = await done.communicate()
    return done.returncode or 0, out.decode(), problem.decode()


async def test_the_command_line(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (head, _):
        code, out, problem = await saga(tmp_path, "add", "physics", "--weight", "2", "--output", "quiet")
        assert code == 0, problem
        key = out.strip()
        assert (await ask(head, key))[0] == 200
        assert (await saga(tmp_path, "limit", "physics", "--workflows", "5"))[0] == 0
        (listed,) = [
            t
            for t in json.loads((await saga(tmp_path, "list", "--output", "json"))[1])
            if t["name"] == "physics"
        ]
        assert (listed["weight"], listed["max_workflows"]) == (2.0, 5)
        code, out, _ = await saga(tmp_path, "list")
        assert "0 of 5" in out
        assert key not in out
        assert (await saga(tmp_path, "key", "physics", "--revoke", listed["keys"][0]["id"]))[0] == 0
        assert (await ask(head, key))[0] == 401
        for words in (
            ["limit", "physics"],
            ["limit", "nobody", "--weight", "1"],
            ["add", "No Name"],
            ["add", "physics"],
        ):
            code, _, problem = await saga(tmp_path, *words)
            assert (code, "valid" in problem or "there already" in problem or "have" in problem) == (
                2,
                True,
            ), problem
