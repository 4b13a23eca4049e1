"""The only module that knows where things stand in a TOML file, and words what is wrong there."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str], *, at: str) -> ConfigError:
    """The error to raise for a *name* that is not among the *known*, with the one that was probably meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(f"{at}: unknown {what} {name}{guess}", hint=f"the valid ones are {', '.join(names)}")


def describe(value: object) -> str:
    """*value* as an error message quotes it, with its TOML type."""
    match value:
        case str():
            return f'the text "{value:.100}"'
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case dict():
            return "a table"
    return "a date or time"


@frozen
class Table:
    """One table of a list such as ``[[models]]``: its *values*, and for saying where they stand its *index* in the list *name*."""

    name: str
    index: int
    values: Mapping[str, Any]
    where: str
    lines: Mapping[tuple[str, ...], int]

    def at(self, *key: str) -> str:
        """Where *key* of the table stands, or the table itself: ``modelcache.toml:7``."""
        table = (self.name, str(self.index))
        return place(self.where, self.lines.get((*table, *key)) or self.lines.get(table))

    def check(self, what: str, keys: Iterable[str], *, needs: str, example: str) -> None:
        """Raise `ConfigError` for a key that is not among *keys*, and when *needs* is missing."""
        keys = tuple(keys)
        for key in self.values:
            if key not in keys:
                kind = f"key of a {what}"
                raise unknown(kind, key, keys, at=self.at(key))
        if needs not in self.values:
            msg = f"{self.at()}: this {what} has no {needs}"
            raise ConfigError(msg, hint=f'add a line {needs} = "{example}"')

    def text(self, key: str) -> str:
        """The text *key*; raises `ConfigError` for anything else."""
        return self._text(key, self.values[key])

    def texts(self, key: str) -> tuple[str, ...]:
        """The list of texts *key*; raises `ConfigError` for anything else."""
        value = self.values[key]
        if not isinstance(value, list):
            raise self.wrong(key, "a list", hint=f'write it as {key} = ["*.safetensors", "*.json"]')
        return tuple(self._text(key, item) for item in value)

    def wrong(self, key: str, expected: str, *, hint: str | None = None) -> ConfigError:
        """The error to raise when *key* is not what was *expected*."""
        return ConfigError(f"{self.at(key)}: {key}: expected {expected}, got {describe(self.values[key])}", hint=hint)

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            msg = f"{self.at(key)}: {key}: expected a text in quotes, got {describe(value)}"
            raise ConfigError(msg)
        return value


def tables(
    name: str, plain: Mapping[str, Any], *, where: str, lines: Mapping[tuple[str, ...], int], line: str
) -> tuple[Table, ...]:
    """The tables ``[[name]]`` of a file, none if there is no such key; raises `ConfigError`, telling to write *line*, for other values."""
    value = plain.get(name, [])
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        msg = f"{place(where, lines.get((name,)))}: {name}: expected tables, got {describe(value)}"
        raise ConfigError(msg, hint=f"write each as [[{name}]] with a line {line}")
    return tuple(Table(name, index, values, where, lines) for index, values in enumerate(value))


def place(where: str, line: int | None) -> str:
    """*where* with its line: ``modelcache.toml:3``."""
    return where if line is None else f"{where}:{line}"


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """
    The line of each key of a valid TOML *text*: ``("store",)``, ``("models", "0")``, ``("models", "0", "repo")``.

    `tomllib` keeps no positions, so statements are found by it one by one: a statement ends where it parses.
    """
    found: dict[tuple[str, ...], int] = {}
    seen: Counter[str] = Counter()
    prefix: tuple[str, ...] = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        first = first if statement else number
        statement += f"{line}\n"
        try:
            plain = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # a list or text of several lines goes on
        for key, value in plain.items():
            if statement.lstrip().startswith("["):
                prefix = (key, str(seen[key])) if isinstance(value, list) else (key,)
                seen[key] += 1
                found.setdefault((key,), first)
                found.setdefault(prefix, first)
            else:
                found.setdefault((*prefix, key), first)
        statement = ""
    return found
