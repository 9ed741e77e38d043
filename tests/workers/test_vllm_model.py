"""The small local model: the same bytes every time, whole or not at all, and light to import."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from saga_core.errors import UserError
from saga_vllm.model import MODEL_SIZES, STAMP, build_command, build_model, is_built

ROOT = Path(__file__).parents[2]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def nano(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "nano"
    subprocess.run(build_command(out, "nano"), check=True, capture_output=True)
    return out


@pytest.mark.vllm
def test_a_built_model_is_whole(nano: Path) -> None:
    assert is_built(nano, "nano")
    assert not is_built(nano, "agent")
    assert not is_built(nano, "nano", seed=1)
    assert {path.name for path in nano.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        STAMP,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in nano.parent.iterdir()] == ["nano"], "no temporary folder stays"


@pytest.mark.vllm
def test_the_same_seed_gives_the_same_bytes(nano: Path, tmp_path: Path) -> None:
    again = subprocess.run(
        build_command(tmp_path / "nano", "nano"), check=True, capture_output=True, text=True
    )
    assert digests(tmp_path / "nano") == digests(nano)
    assert again.stderr == "", "no progress bar, no warning"


def test_a_second_call_is_instant_and_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    a_model(tmp_path / "m", {"recipe": 1, "size": "agent", "seed": 0})
    monkeypatch.setattr("saga_vllm.model._write_weights", lambda *_: pytest.fail("built again"))
    assert build_model(tmp_path / "m") == tmp_path / "m"


def a_model(out: Path, stamp: object) -> None:
    out.mkdir()
    (out / STAMP).write_text(json.dumps(stamp))
    (out / "old").touch()


def test_a_model_of_an_older_recipe_is_replaced(tmp_path: Path, monkeypatch) -> None:
    a_model(tmp_path / "m", {"recipe": 0, "size": "agent", "seed": 0})
    monkeypatch.setattr("saga_vllm.model._write_weights", lambda folder, *_: (folder / "weights").touch())
    build_model(tmp_path / "m")
    assert is_built(tmp_path / "m")
    assert not (tmp_path / "m/old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_build_that_fails_leaves_nothing_new(tmp_path: Path, monkeypatch) -> None:
    a_model(tmp_path / "m", {"recipe": 0})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("saga_vllm.model._write_weights", fail)
    with pytest.raises(OSError, match="disk full"):
        build_model(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m/old").exists()


def test_two_builders_at_once(tmp_path: Path, monkeypatch) -> None:
    """The other one finishes while we still compute: its model stands, ours goes."""

    def lose_the_race(folder: Path, *_) -> None:
        if folder.name.startswith(".m-"):
            monkeypatch.setattr("saga_vllm.model._write_weights", lambda *_: None)
            build_model(tmp_path / "m")

    monkeypatch.setattr("saga_vllm.model._write_weights", lose_the_race)
    build_model(tmp_path / "m")
    assert is_built(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").touch()
    with pytest.raises(UserError, match="is no model made by saga"):
        build_model(tmp_path / "home")
    assert (tmp_path / "home/thesis.txt").exists()


def test_an_unknown_size_lists_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown model size 'huge' \(have: agent, demo, nano, small\)"):
        build_model(tmp_path / "m", "huge")


def test_kv_bytes_per_token() -> None:
    """As measured: 512, 512, 2048 and 3072 bytes."""
    measured = {"nano": 512, "agent": 512, "small": 2048, "demo": 3072}
    assert {name: size.kv_bytes_per_token for name, size in MODEL_SIZES.items()} == measured


def test_importing_the_package_imports_no_engine() -> None:
    code = """if True:
        import pkgutil, sys, saga_vllm
        for module in pkgutil.iter_modules(saga_vllm.__path__):
            __import__(f"saga_vllm.{module.name}")
        print(sorted({"vllm", "torch", "transformers", "tokenizers", "numpy"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
