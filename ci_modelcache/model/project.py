"""
The only module that reads modelcache.toml: settings as they stand there, and the models of ``[[models]]``.

What a setting means is the business of `ci_modelcache.config`; here it has a value and a line.
"""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ci_modelcache.errors import ConfigError, InvalidRef, ManifestInvalid
from ci_modelcache.model.document import parse_toml
from ci_modelcache.model.ref import DEFAULT_REVISION, ModelRef, RepoType
from ci_modelcache.model.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE = "modelcache.toml"
"""The name of the file."""

_MODEL_KEYS = ("repo", "revision", "type", "include", "exclude")
_RANGE = ("^", "~", "<", ">", "=")


def is_range(revision: str) -> bool:
    """Whether *revision* is a range of versions such as ``^1.2`` rather than a branch, tag or commit."""
    return revision.startswith(_RANGE)


@frozen
class ProjectModel:
    """One ``[[models]]`` table; *revision* is a branch, tag, commit or a range of versions such as ``^1.2``."""

    repo: str
    revision: str = DEFAULT_REVISION
    type: RepoType = RepoType.MODEL
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def selection(self) -> Selection:
        """Which files are asked for."""
        return Selection(self.include, self.exclude)

    @property
    def is_range(self) -> bool:
        """Whether *revision* names a range, which only `ci-modelcache lock` can turn into a commit."""
        return is_range(self.revision)

    @property
    def ref(self) -> ModelRef:
        """The model at its revision; raises `ConfigError` for a range."""
        if self.is_range:
            msg = f"{self.repo}@{self.revision} is a range of versions, and only a lock says which one is meant"
            raise ConfigError(msg, hint="run ci-modelcache lock, commit modelcache.lock, and use --locked")
        return ModelRef(self.repo, self.revision, self.type)


@frozen
class Project:
    """What the file *where* (as its user would write the path) says: raw *settings*, their *lines*, the *models*."""

    where: str
    settings: Mapping[str, object] = field(factory=dict)
    lines: Mapping[str, int] = field(factory=dict)
    models: tuple[ProjectModel, ...] = ()

    @classmethod
    def parse(cls, text: str, *, where: str, known: Iterable[str], secret: Iterable[str] = ()) -> Project:
        """
        Read *text*, in which only the settings *known* may stand.

        Raises `ConfigError` naming file and line, with another hint for a setting that is *secret*.
        """
        try:
            plain = parse_toml(text, where)
        except ManifestInvalid as error:
            raise ConfigError(error.message, hint="mend the file; strings stand in double quotes") from error
        lines = _lines(text)
        settings = {key: value for key, value in plain.items() if key != "models"}
        known = (*known, "models")
        for key in settings:
            if key in secret:
                msg = f"{_at(where, lines.get((key,)))}: {key} is a secret, and this file is for everybody to read"
                raise ConfigError(msg, hint="take it out, revoke it, and give the new one in a variable")
            if key not in known:
                raise unknown("setting", key, known, at=_at(where, lines.get((key,))))
        tables = plain.get("models", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            msg = f"{_at(where, lines.get(('models',)))}: models: expected tables, got {describe(tables)}"
            raise ConfigError(msg, hint='write each model as [[models]] with a line repo = "org/name"')
        models = tuple(_model(table, _Table(where, lines, str(index))) for index, table in enumerate(tables))
        return cls(where, settings, {path[0]: line for path, line in lines.items() if len(path) == 1}, models)

    def at(self, key: str) -> str:
        """Where the setting *key* stands: ``modelcache.toml:3``."""
        return _at(self.where, self.lines.get(key))


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
class _Table:
    """One ``[[models]]`` table, for saying where things stand."""

    where: str
    lines: Mapping[tuple[str, ...], int]
    index: str

    def at(self, *key: str) -> str:
        """Where *key* of the table stands, or the table itself."""
        table = ("models", self.index)
        return _at(self.where, self.lines.get((*table, *key)) or self.lines.get(table))


def _model(table: dict[str, Any], place: _Table) -> ProjectModel:
    for key in table:
        if key not in _MODEL_KEYS:
            raise unknown("key of a model", key, _MODEL_KEYS, at=place.at(key))
    if "repo" not in table:
        msg = f"{place.at()}: this model has no repo"
        raise ConfigError(msg, hint='add a line repo = "org/name"')
    texts = {key: _text(table[key], place.at(key), key) for key in ("repo", "revision", "type") if key in table}
    lists = {key: _texts(table[key], place.at(key), key) for key in ("include", "exclude") if key in table}
    kind = texts.get("type", str(RepoType.MODEL))
    if kind not in list(RepoType):
        msg = f'{place.at("type")}: type: expected {" or ".join(RepoType)}, got "{kind:.100}"'
        raise ConfigError(msg)
    model = ProjectModel(
        repo=texts["repo"],
        revision=texts.get("revision", DEFAULT_REVISION),
        type=RepoType(kind),
        include=lists.get("include", ()),
        exclude=lists.get("exclude", ()),
    )
    key = "repo"
    try:
        ModelRef(model.repo)
        key = "revision"
        if not model.is_range:
            ModelRef(model.repo, model.revision)
    except InvalidRef as error:
        msg = f"{place.at(key)}: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error
    return model


def _text(value: object, at: str, key: str) -> str:
    if not isinstance(value, str):
        msg = f"{at}: {key}: expected a text in quotes, got {describe(value)}"
        raise ConfigError(msg)
    return value


def _texts(value: object, at: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        msg = f"{at}: {key}: expected a list, got {describe(value)}"
        raise ConfigError(msg, hint=f'write it as {key} = ["*.safetensors", "*.json"]')
    return tuple(_text(item, at, key) for item in value)


def _at(where: str, line: int | None) -> str:
    return where if line is None else f"{where}:{line}"


def _lines(text: str) -> dict[tuple[str, ...], int]:
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
