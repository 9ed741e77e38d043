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
