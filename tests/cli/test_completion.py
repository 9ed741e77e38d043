"""What a shell asks and is told."""

import os
import subprocess
import sys

import pytest


def asked(words: str, number: int) -> list[str]:
    env = os.environ | {"_SAGA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    done = subprocess.run(
        [sys.executable, "-m", "saga_cli"], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_commands_and_options_are_completed():
    assert asked("saga do", 1) == ["down", "doctor"]
    assert "--replay" in asked("saga top --", 2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_words(saga, shell):
    said = saga("completion", shell)
    assert said.code == 0
    assert "_SAGA_COMPLETE" in said.out


def test_another_shell_is_told_which_there_are(saga):
    said = saga("completion", "csh")
    assert said.code == 2
    assert "bash, fish, zsh" in said.err
