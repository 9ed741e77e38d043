"""What pages and comments name of our own code, files and pages is there."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = [path for root in ("daemon", "workers", "bench", "tests") for path in (ROOT / root).rglob("*.py")]
CODE += [path for package in ("saga_cli", "saga_sim") for path in (ROOT / package).rglob("*.py")]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
MODULE = re.compile(r"`(saga_[a-z]+(?:[./]\w+)*)`")
"""`saga_core.kv.queue`, `saga_core/gate.py`, `saga_core.actions.Record`."""
FILE = re.compile(r"`((?:tests|scripts|docs|daemon|workers|bench|job_templates)/[\w./-]+)`")
PAGE = re.compile(r"\bdocs/(?:adr/(\d{4})|((?:agents/)?[\w-]+\.md)\b)")
"""Other folders below docs/ are other projects' own."""


def packages() -> Iterator[Path]:
    for root in (ROOT, ROOT / "daemon", ROOT / "workers", ROOT / "bench"):
        yield from (path for path in root.glob("saga_*") if path.suffix != ".egg-info")


@cache
def text(path: Path) -> str:
    return path.read_text()


@cache
def missing(name: str) -> str:
    """What of a dotted name there is not; empty: all of it is there."""
    package, *parts = name.split(".")
    at = next((path for path in packages() if path.name == package), None)
    if at is None:
        return package
    for index, part in enumerate(parts):
        if (at / part).is_dir():
            at /= part
        elif (at / f"{part}.py").is_file():
            return absent(at / f"{part}.py", parts[index + 1 :])
        else:
            return absent(at / "__init__.py", parts[index:])
    return ""


def absent(module: Path, words: list[str]) -> str:
    found = text(module) if module.exists() else ""
    return next((word for word in words if not re.search(rf"\b{word}\b", found)), "")


def odd(path: Path) -> Iterator[str]:
    for name in MODULE.findall(text(path)):
        if word := missing(name.removesuffix(".py").replace("/", ".")):
            yield f"{name}: no {word}"
    yield from (name for name in FILE.findall(text(path)) if not (ROOT / name).exists())
    for decision, page in PAGE.findall(text(path)):
        if not (
            list((ROOT / "docs/adr").glob(f"{decision}-*")) if decision else (ROOT / "docs" / page).exists()
        ):
            yield f"docs/{page or f'adr/{decision}'}"


def test_what_is_named_is_there() -> None:
    found = {
        str(path.relative_to(ROOT)): list(odd(path)) for path in [*PAGES, *CODE] if path != Path(__file__)
    }
    assert not {path: names for path, names in found.items() if names}
    assert len(found) > 500
