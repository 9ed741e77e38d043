"""Settings: which source wins, and what is said about a wrong one."""

from __future__ import annotations

import json

import pytest

from saga_cli.config import parse_sets, resolve, variable
from saga_core.config import Config, settings
from saga_core.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".config" / "saga").mkdir(parents=True)
    return tmp_path


def test_each_source_wins_over_the_ones_before_it(home):
    user, project, named = home / ".config/saga/config.toml", home / "saga.toml", home / "other.toml"

    def port(flags, variables=None, file=None):
        found = resolve(flags, file=file, environment=variables or {})
        return found.config.head.port, found.origins["head.port"]

    assert port({}) == (0, "default")
    user.write_text("[head]\nport = 1\n")
    assert port({}) == (1, str(user))
    project.write_text("[head]\nport = 2\n")
    assert port({}) == (2, "saga.toml")
    named.write_text("[head]\nport = 3\n")
    assert port({}, file=named) == (3, str(named))
    assert port({}, {"SAGA_HEAD_PORT": "4"}, file=named) == (4, "SAGA_HEAD_PORT")
    assert port({"head.port": "5"}, {"SAGA_HEAD_PORT": "4"}, file=named) == (5, "command line")


def test_sources_are_merged_setting_by_setting(home):
    (home / "saga.toml").write_text('profile = "sticky"\n[workers]\ncount = 3\nextra_args = ["--a", "b"]\n')
    found = resolve({"workers.model": "nano"}, environment={"SAGA_WORKERS_KV_TOKENS": "4096"})
    workers = found.config.workers
    assert (workers.count, workers.model, workers.kv_tokens, workers.extra_args) == (
        3,
        "nano",
        4096,
        ("--a", "b"),
    )
    assert found.asked == {
        "profile": "sticky",
        "workers.count": 3,
        "workers.model": "nano",
        "workers.kv_tokens": 4096,
        "workers.extra_args": ("--a", "b"),
    }


@pytest.mark.parametrize("text", ["head]", "[head]\nport = 1\nport = 2", "\x00"])
def test_a_file_that_is_not_toml(home, text):
    (home / "saga.toml").write_text(text)
    with pytest.raises(UserError, match=r"saga\.toml: not valid TOML"):
        resolve({}, environment={})


def test_unknown_names_list_the_valid_ones(home):
    (home / "saga.toml").write_text("[head]\nprot = 1\n")
    with pytest.raises(
        UserError,
        match=r"unknown setting 'head\.prot' in saga\.toml, did you mean 'head\.port'\? \(have: .*head\.port",
    ):
        resolve({}, environment={})


def test_an_unknown_variable_of_our_sections_is_refused_and_others_are_not(home):
    with pytest.raises(UserError, match=r"SAGA_HEAD_PROT.*SAGA_HEAD_PORT"):
        resolve({}, environment={"SAGA_HEAD_PROT": "1"})
    resolve({}, environment={"SAGA_OUTPUT": "json", "SAGA_CLUSTER_DIR": "/x", "SAGA_TRACES": "/y"})


def test_a_named_file_must_be_there(home):
    with pytest.raises(UserError, match="cannot be read"):
        resolve({}, file=home / "missing.toml", environment={})


@pytest.mark.parametrize("text", ["port", "=1", ""])
def test_set_without_a_value(text):
    with pytest.raises(UserError, match=r"section\.name=value"):
        parse_sets([text])


def test_set_values_may_hold_equals_signs():
    assert parse_sets(["workers.extra_args=--a=b --c=d"]) == {"workers.extra_args": "--a=b --c=d"}


def test_a_value_of_the_wrong_kind_names_its_place(home):
    with pytest.raises(UserError, match=r"command line: head\.port = 'many' is not a valid int"):
        resolve({"head.port": "many"}, environment={})


def test_every_setting_has_its_own_variable():
    names = [variable(name) for name in settings(Config())]
    assert len(set(names)) == len(names)


def test_config_show_tells_value_and_origin(saga, monkeypatch):
    monkeypatch.setenv("SAGA_WORKERS_COUNT", "4")
    said = saga("config", "show", "--output", "json")
    shown = json.loads(said.out)
    assert shown["workers.count"] == {"value": 4, "origin": "SAGA_WORKERS_COUNT"}
    assert shown["head.port"] == {"value": 0, "origin": "default"}
