"""A cluster folder, a stub of the head's control API with canned views, and `saga` run in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from canned import CLUSTER, EXPLANATION, NOW, STEP, WORKFLOWS, access_of

from saga_cli.main import run
from saga_core import access
from saga_core.views import Accepted

ADMIN_KEY = "sk-admin-test"


@dataclass
class Stub:
    """What the stub head answers, and what it was asked."""

    url: str = ""
    cluster: object = CLUSTER
    workflows: list = field(default_factory=lambda: list(WORKFLOWS))
    asked: list[tuple[str, str, object]] = field(default_factory=list)
    broken: bytes | None = None

    def answer(self, method: str, path: str, body: object) -> tuple[int, object]:
        self.asked.append((method, path, body))
        parts = path.removeprefix("/saga/v1/").partition("?")[0].split("/")
        match method, parts:
            case "GET", ["cluster"]:
                return 200, self.cluster
            case "GET", ["workflows"]:
                return 200, self.workflows
            case "GET", ["workflows", "1", "explanation"]:
                return 200, EXPLANATION
            case "GET", ["steps", "48", "explanation"]:
                return 200, STEP
            case "GET", ["steps", number, "explanation"]:
                return 404, {"error": {"message": f"nothing is known of step '{number}'", "type": "x"}}
            case "GET", ["workflows", number]:
                return self._one(int(number))
            case "POST", ["workflows"]:
                return 201, Accepted(
                    id=8, base_url="http://127.0.0.1:8000/s/tok/v1", api_key="tok", log="8.log"
                )
            case "POST", ["workflows", number, "cancel"]:
                status, one = self._one(int(number))
                return status, msgspec.structs.replace(one, state="cancelling")
            case "POST", ["workflows", number, "finish"]:
                return self._one(int(number))
            case "PUT", ["profile"]:
                self.cluster = msgspec.structs.replace(self.cluster, profile=body["profile"])
                return 200, body
            case "POST", ["shutdown"]:
                return 202, {"stopping": True}
        return 404, {"error": {"message": f"no {method} {path}", "type": "invalid_request_error"}}

    def _one(self, number: int) -> tuple[int, object]:
        return 200, next(w for w in self.workflows if w.id == number)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        stub: Stub = self.server.stub
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.headers["Authorization"] != f"Bearer {ADMIN_KEY}":
            status, value = 401, {"error": {"message": "the admin key is not valid", "type": "x"}}
        else:
            status, value = stub.answer(self.command, self.path, body)
        data = stub.broken if stub.broken is not None else msgspec.json.encode(value)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _serve  # noqa: N815 - http.server looks for these names

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.stub = Stub(url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.stub
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, stub: Stub) -> Path:
    """A cluster folder whose head is the stub."""
    path = tmp_path / "cluster"
    (path / "workflows").mkdir(parents=True)
    (path / "workflows" / "1.log").write_bytes(b"hello from the agent\n")
    (path / access.FILE).write_bytes(access.encode(access_of(stub.url, ADMIN_KEY)))
    return path


@dataclass
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Saga = Callable[..., Said]


@pytest.fixture
def saga(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Saga:
    """Run a command in this process, in an empty home and folder, 80 columns wide, at a fixed time."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("SAGA_CLUSTER_DIR", "SAGA_OUTPUT", "XDG_CONFIG_HOME", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "HOME": str(home),
        "COLUMNS": "80",
        "LINES": "24",
        "SAGA_CLUSTER_DIR": str(tmp_path / "cluster"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    monkeypatch.setattr("time.time", lambda: NOW)

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        code = run(arguments)
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call
