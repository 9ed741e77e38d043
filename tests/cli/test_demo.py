"""The demo as a whole, with engine doubles: it compares, ends, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

WORDS = [sys.executable, "-m", "saga_cli", "--output", "json", "demo", "--engine", "fake", "--workflows", "2"]


def family(folder: Path) -> list[psutil.Process]:
    """Every process that names a demo's folder below `folder`."""
    everyone = psutil.process_iter(["cmdline"])
    return [p for p in everyone if str(folder) in " ".join(p.info["cmdline"] or [])]


def test_it_compares_two_profiles_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        WORDS,
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert [r["profile"] for r in reports] == ["saga", "sticky"]
    for report in reports:
        assert (report["summary"]["finished"], report["summary"]["mismatches"]) == (2, 0)
    assert not family(tmp_path)
    assert not list(tmp_path.glob("saga-demo-*"))


def test_an_interrupted_demo_takes_its_cluster_down(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        WORDS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        end = time.monotonic() + 60
        while not [p for p in family(tmp_path) if "saga_node" in " ".join(p.cmdline())]:
            assert time.monotonic() < end, "the demo starts a node"
            time.sleep(0.05)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 130
        assert not family(tmp_path)
        assert not list(tmp_path.glob("saga-demo-*"))
    finally:
        demo.kill()
        demo.wait()
