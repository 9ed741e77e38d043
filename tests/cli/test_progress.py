"""Progress: lines in a pipe, a bar on a terminal, silence in the other modes; stdout is never touched."""

from __future__ import annotations

import pytest

from saga_cli.output import Color, Output, Renderer
from saga_cli.progress import Bar, Lines, Silent, progress


def work(show) -> None:
    with show:
        show.phase("starting the head")
        show.phase("starting workers", 2)
        show.tick(1)
        show.advance(2, "local/1 is ready")


def test_one_line_per_step_in_a_pipe(capsys):
    show = progress(Renderer(Output.TABLE, Color.AUTO))
    assert isinstance(show, Lines)
    work(show)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "starting the head\nstarting workers\n  2/2 local/1 is ready\n"


@pytest.mark.parametrize("mode", [Output.JSON, Output.QUIET])
def test_silence_in_the_other_modes(mode, capsys):
    show = progress(Renderer(mode, Color.AUTO))
    assert isinstance(show, Silent)
    work(show)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    show = progress(Renderer(Output.TABLE, Color.NEVER))
    assert isinstance(show, Bar)
    work(show)
    out, err = capsys.readouterr()
    assert out == ""
    assert "✓ starting the head" in err
    assert "local/1 is ready" in err
    assert "2/2" in err


def test_a_phase_cut_short_is_not_shown_as_done(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show = progress(Renderer(Output.TABLE, Color.NEVER))
    with pytest.raises(RuntimeError):
        _fail_half_way(show)
    assert "✓" not in capsys.readouterr().err


def _fail_half_way(show) -> None:
    with show:
        show.phase("starting workers")
        raise RuntimeError
