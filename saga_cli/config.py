"""Settings and where each came from: TOML files < `SAGA_<SECTION>_<NAME>` < flags.

Of the files, `./saga.toml` (or the one that --config names) wins over `~/.config/saga/config.toml`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saga_core.config import Config, settings, with_settings
from saga_core.errors import UserError, choose

DEFAULT: Final = "default"
COMMAND_LINE: Final = "command line"
PROJECT_FILE: Final = "saga.toml"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A whole configuration. `origins` says of each dotted name what set it."""

    config: Config
    origins: Mapping[str, str]

    @property
    def values(self) -> dict[str, Any]:
        return settings(self.config)

    @property
    def asked(self) -> dict[str, Any]:
        """What somebody set on purpose, by dotted name."""
        return {name: value for name, value in self.values.items() if self.origins[name] != DEFAULT}


def resolve(
    flags: Mapping[str, Any], *, file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Resolved:
    """The configuration by its rules of precedence. `flags`: dotted name to value, or text.

    Raises UserError for an unknown name (listing the valid ones), a value of the wrong kind, and
    a file that cannot be read.
    """
    config = Config()
    origins = dict.fromkeys(settings(config), DEFAULT)
    for where, values in (*_files(file, environment), *_variables(environment), (COMMAND_LINE, flags)):
        config = with_settings(config, values, where=where)
        origins |= dict.fromkeys(values, where)
    return Resolved(config, origins)


def parse_sets(texts: Iterable[str]) -> dict[str, str]:
    """`section.name=value` of each --set."""
    values: dict[str, str] = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name:
            raise UserError(
                f"--set {text!r} is not section.name=value (for example --set workers.max_model_len=8192)"
            )
        values[name.strip()] = value
    return values


def _files(named: Path | None, environment: Mapping[str, str]) -> Iterable[tuple[str, dict[str, Any]]]:
    home = Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for path in (home / "saga" / "config.toml", named or Path(PROJECT_FILE)):
        if path == named or path.is_file():
            yield str(path), _read(path)


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        with path.open("rb") as file:
            return _flat(tomllib.load(file), "")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None


def _flat(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _variables(environment: Mapping[str, str]) -> Iterable[tuple[str, dict[str, str]]]:
    """A variable of one of our sections must name a setting; other `SAGA_...` ones are somebody else's."""
    names = {variable(name): name for name in settings(Config())}
    sections = tuple({variable(name.partition(".")[0]) + "_" for name in names.values() if "." in name})
    for key, value in sorted(environment.items()):
        if key in names:
            yield key, {names[key]: value}
        elif key.startswith(sections):
            raise choose("environment variable", key, [n for n in names if n.startswith(sections)])


def variable(name: str) -> str:
    """`head.port` -> `SAGA_HEAD_PORT`."""
    return "SAGA_" + name.replace(".", "_").upper()
