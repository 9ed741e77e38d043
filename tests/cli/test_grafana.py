"""The dashboard of docs/grafana asks for what the head exports, and for all sorts of it."""

import json
import re
from pathlib import Path

from saga_core.config import Config
from saga_core.head import Head
from saga_head.metrics import Metrics

PATH = Path(__file__).parents[2] / "docs" / "grafana" / "saga.json"


def exported() -> set[str]:
    names = set()
    for family in Metrics(Head(Config())).collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(
            family.type, ("",)
        )
        names |= {family.name + suffix for suffix in suffixes}
    return names


def expressions() -> list[str]:
    board = json.loads(PATH.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_every_metric_of_the_dashboard_exists():
    asked = {name for text in expressions() for name in re.findall(r"\bsaga_\w+", text)}
    assert len(asked) > 20
    assert not asked - exported()


def test_panels_have_titles_places_and_numbers_of_their_own():
    panels = json.loads(PATH.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len(panels)
    assert all(panel["title"] for panel in panels)


def test_no_panel_lies_on_another():
    panels = json.loads(PATH.read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(0 <= x < 24 for x, _ in cells)


def test_what_moves_between_workers_is_shown():
    asked = " ".join(expressions())
    for name in ("saga_migrations_total", "saga_migrated_total", "saga_steps_resumed_total"):
        assert name in asked, name
