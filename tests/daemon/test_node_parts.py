"""The small parts of the node daemon."""

import io
import json
import logging
import os

import pytest
from msgspec.structs import replace

from saga_core.config import WorkersConfig
from saga_core.errors import ClusterError, UserError
from saga_core.wire import RunProgram
from saga_node import engines, logfile, models, places
from saga_node.engines import Seat
from saga_node.logfile import LogFile
from saga_node.residence import Residence
from saga_node.room import confined
from saga_shell import log
from saga_vllm.kv_events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, Lost, Restarted
from saga_vllm.platform import Platform


def seat(tmp_path, **other) -> Seat:
    words = {"host": "10.0.0.1", "port": 81, "key": "k", "scratch": tmp_path, "cores": (0, 1), "gpus": ()}
    return Seat(**words | other)


# -- engines -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "served"), [("/m/qwen", "", "qwen"), ("nano", "", "nano"), ("/m/q", "x", "x")]
)
def test_the_served_name(model, name, served):
    assert engines.served_name(WorkersConfig(model=model, served_name=name)) == served


def test_fake_and_vllm_get_the_same_seat_and_no_key_on_the_line(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.platform, "detect", lambda: Platform.CPU)
    for kind in ("vllm", "fake"):
        config = WorkersConfig(engine=kind, model="nano", kv_tokens=1000, extra_args=("--seed", "3"))
        launch = engines.engine(config).render(seat(tmp_path, key="hush"))
        line = " ".join(launch.argv)
        assert "--host 10.0.0.1 --port 81" in line
        assert f"ipc://{tmp_path}/kv" in line
        assert line.endswith("--seed 3")
        assert "hush" not in line
        assert launch.env["VLLM_API_KEY"] == "hush"


@pytest.mark.parametrize("kind", ["vllm", "fake"])
def test_engines_serve_by_priority_where_the_profile_wants_it(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(engines.platform, "detect", lambda: Platform.CPU)
    flag = "--scheduling-policy priority"
    for wanted, extra, serves in (
        (True, (), True),
        (False, (), False),
        (True, ("--scheduling-policy", "fcfs"), False),
    ):
        config = WorkersConfig(engine=kind, model="nano", extra_args=extra)
        engine = engines.engine(config, ordered=wanted)
        assert engine.ordered is serves, "what a worker says of itself"
        assert (flag in " ".join(engine.render(seat(tmp_path)).argv)) is wanted


def test_the_kv_pool_of_a_cpu_worker_is_in_bytes_with_the_null_block(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.platform, "detect", lambda: Platform.CPU)
    launch = engines.engine(WorkersConfig(model="nano", kv_tokens=1000)).render(seat(tmp_path))
    at = launch.argv.index("--kv-cache-memory-bytes")
    assert launch.argv[at + 1] == str(
        (32 + 1) * 32 * 512
    )  # 1000 tokens are 32 blocks of 32; nano takes 512 bytes a token


def test_a_gpu_worker_gets_its_gpus_and_no_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.platform, "detect", lambda: Platform.CUDA)
    config = WorkersConfig(model="/m/qwen", tp=2, gpu_memory=0.8)
    launch = engines.engine(config).render(seat(tmp_path, gpus=("4", "5")))
    line = " ".join(launch.argv)
    assert "--tensor-parallel-size 2 --gpu-memory-utilization 0.8" in line
    assert "taskset" not in line
    assert "--kv-cache-memory-bytes" not in line
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_gpus_are_split_in_order(monkeypatch):
    monkeypatch.setattr(engines.platform, "detect", lambda: Platform.CUDA)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3, 6,MIG-a")
    assert [gpus for _, gpus in engines.shares(WorkersConfig(count=2, tp=2))] == [("2", "3"), ("6", "MIG-a")]
    with pytest.raises(UserError, match=r"needs 6 GPUs, this node has 4 \(2, 3, 6, MIG-a\)"):
        engines.shares(WorkersConfig(count=3, tp=2))


@pytest.mark.parametrize(
    ("cores", "count", "shares"),
    [
        ({0, 1, 2, 3}, 2, [(0, 1), (2, 3)]),
        ({4, 5, 7}, 2, [(4,), (5, 7)]),
        ({0, 1}, 3, [(0,), (1,), (0,)]),
        ({0, 1}, 0, []),
    ],
)
def test_cores_are_divided(monkeypatch, cores, count, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert [share for share, _ in engines.shares(WorkersConfig(engine="fake", count=count))] == shares


# -- models ------------------------------------------------------------------------------


def test_kv_bytes_of_a_model_folder(tmp_path):
    shape = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert models.kv_bytes_per_token(str(tmp_path)) == 2 * 4 * 2 * 64 * 2
    (tmp_path / "config.json").write_text(json.dumps({"text_config": shape | {"head_dim": 128}}))
    assert models.kv_bytes_per_token(str(tmp_path)) == 2 * 4 * 2 * 128 * 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_hidden_layers": "x"}'])
def test_a_config_that_does_not_tell_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json does not tell the size"):
        models.kv_bytes_per_token(str(tmp_path))


def test_a_model_that_is_not_there_names_the_valid_ones():
    with pytest.raises(
        UserError, match=r"workers.model = '/no/model'.*valid: a model's folder, or one of nano, agent"
    ):
        models.kv_bytes_per_token("/no/model")


# -- residency ---------------------------------------------------------------------------


def stored(*hashes, session="7.main", parent=None, **other):
    return BlockStored(
        block_hashes=hashes, parent_block_hash=parent, block_size=32, session_id=session, **other
    )


def batch(*events):
    return Batch(0, 0.0, 0, events)


def test_sessions_grow_shrink_and_are_told_once():
    residence = Residence("n1/0", 3)
    residence.hear(batch(stored(1, 2), stored(3, parent=2)))
    news = residence.news()
    assert (news.worker, news.incarnation, dict(news.tokens), news.reset) == (
        "n1/0",
        3,
        {"7.main": 96},
        False,
    )
    assert residence.news() is None
    residence.hear(batch(BlockRemoved(block_hashes=(2,), medium="GPU")))
    assert residence.news().tokens == {"7.main": 32}


@pytest.mark.parametrize("blow", [Lost(3, 5), Restarted()])
def test_after_a_hole_nothing_is_claimed(blow):
    residence = Residence("n1/0", 3)
    residence.hear(batch(stored(1, 2)))
    residence.news()
    residence.hear(blow)
    news = residence.news()
    assert news.reset
    assert news.tokens == {"7.main": 0}
    assert residence.news() is None


def test_a_cleared_cache_is_empty():
    residence = Residence("n1/0", 3)
    residence.hear(batch(stored(1, 2), AllBlocksCleared()))
    assert residence.news().tokens == {"7.main": 0}


def test_tiers_behind_the_pool_and_other_groups_do_not_count():
    residence = Residence("n1/0", 3)
    residence.hear(batch(stored(1, medium="CPU"), stored(2, group_idx=1)))
    assert residence.news() is None


# -- logs --------------------------------------------------------------------------------


def test_a_log_line():
    stream = io.StringIO()
    log.start("info", stream)
    log.debug("quiet")
    log.info("worker-ready", worker="n1/0", took_s=1.23456, reason='it said "no"\nand went', none="")
    line = stream.getvalue()
    at, level, rest = line.split(" ", 2)
    assert at.endswith("Z")
    assert level == "info"
    assert rest == 'worker-ready worker=n1/0 took_s=1.235 reason="it said \\"no\\"\\nand went" none=""\n'
    logging.getLogger("saga").handlers.clear()


def test_a_large_log_makes_way_and_one_older_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "LARGEST_BYTES", 10)
    path = tmp_path / "new" / "w.log"
    for text in ("first, long enough", "second, long enough", "third"):
        output = LogFile(path)
        os.write(output.fd, text.encode())
        output.close()
    assert path.read_text() == "third"
    assert path.with_name("w.log.1").read_text() == "second, long enough"


def test_the_tail_is_of_this_process_only(tmp_path):
    before = LogFile(tmp_path / "w.log")
    before.write("an older death")
    before.close()
    now = LogFile(tmp_path / "w.log")
    now.write("header")
    assert now.tail(100) == ""
    os.write(now.fd, b"0123456789")
    assert now.tail(4) == "6789"
    assert now.tail(100) == "0123456789"
    now.close()


# -- places ------------------------------------------------------------------------------


def test_the_run_folder_is_private_and_short(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    folder = places.make_run_folder()
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert len(str(folder)) < 50
    folder.rmdir()


def test_no_folder_for_sockets_says_what_was_tried(monkeypatch):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places.tempfile, "mkdtemp", refuse)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(ClusterError, match="/tmp: No space left on device"):
        places.make_run_folder()


@pytest.mark.parametrize("control", ["nonsense", "tcp://host", "ipc:///x"])
def test_an_address_that_is_none(control):
    with pytest.raises(ClusterError, match=r"is not tcp://host:port"):
        places.own_address(control)


def test_the_own_address_is_the_one_the_head_sees():
    assert places.own_address("tcp://127.0.0.1:9") == "127.0.0.1"


# -- programs ----------------------------------------------------------------------------


def test_within_a_slurm_job_a_step_holds_a_program_to_what_it_asked_for(monkeypatch):
    want = RunProgram(
        workflow=1, attempt=1, incarnation=1, argv=["a", "b"], cwd="/w", env={}, log="/l", cpus=3,
        memory_bytes=4 * 2**30,
    )  # fmt: skip
    job = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n-3"}
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    argv = confined(want, job)
    assert argv[0] == "srun"
    assert argv[-2:] == ["a", "b"]
    assert {"--cpus-per-task=3", "--mem=4096M", "--nodelist=n-3", "--overlap", "--exact"} <= set(argv)
    assert confined(want, {}) == ["a", "b"], "no job"
    assert confined(replace(want, cpus=0, memory_bytes=0), job) == ["a", "b"], "nothing asked for"
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert confined(want, job) == ["a", "b"], "no srun"
