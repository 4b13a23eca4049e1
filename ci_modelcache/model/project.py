"""
The only module that reads modelcache.toml: settings as they stand there, the models of ``[[models]]`` and ``[[mirrors]]``.

What a setting means is the business of `ci_modelcache.config`; here it has a value and a line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.errors import ConfigError, InvalidRef, ManifestInvalid
from ci_modelcache.model.document import parse_toml
from ci_modelcache.model.mirror_table import MirrorTable, mirror_tables
from ci_modelcache.model.ref import DEFAULT_REVISION, ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.model.table import Table, lines_of, place, tables, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
    """What the file *where* (as its user would write the path) says: raw *settings*, their *lines*, *models*, *mirrors*."""

    where: str
    settings: Mapping[str, object] = field(factory=dict)
    lines: Mapping[str, int] = field(factory=dict)
    models: tuple[ProjectModel, ...] = ()
    mirrors: tuple[MirrorTable, ...] = ()

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        where: str,
        known: Iterable[str],
        secret: Iterable[str] = (),
        path: Callable[[str], Path] = Path,
        public: bool = True,
    ) -> Project:
        """
        Read *text*, in which only the settings *known* may stand.

        *path* makes paths of the file absolute. In a *public* file, one of a repository, no mirror may have its token from
        anywhere. Raises `ConfigError` naming file and line, with another hint for a setting that is *secret*.
        """
        try:
            plain = parse_toml(text, where)
        except ManifestInvalid as error:
            raise ConfigError(error.message, hint="mend the file; strings stand in double quotes") from error
        lines = lines_of(text)
        known = (*known, "models", "mirrors")
        for key in plain:
            if key in secret:
                msg = f"{place(where, lines.get((key,)))}: {key} is a secret, and this file is for everybody to read"
                raise ConfigError(msg, hint="take it out, revoke it, and give the new one in a variable")
            if key not in known:
                raise unknown("setting", key, known, at=place(where, lines.get((key,))))
        models = tables("models", plain, where=where, lines=lines, line='repo = "org/name"')
        mirrors = tables("mirrors", plain, where=where, lines=lines, line='url = "https://hub.example"')
        return cls(
            where,
            {key: value for key, value in plain.items() if key not in {"models", "mirrors"}},
            {path[0]: line for path, line in lines.items() if len(path) == 1},
            tuple(map(_model, models)),
            mirror_tables(mirrors, path=path, public=public),
        )

    def at(self, key: str) -> str:
        """Where the setting *key* stands: ``modelcache.toml:3``."""
        return place(self.where, self.lines.get(key))


def _model(table: Table) -> ProjectModel:
    table.check("model", _MODEL_KEYS, needs="repo", example="org/name")
    texts = {key: table.text(key) for key in ("repo", "revision", "type") if key in table.values}
    lists = {key: table.texts(key) for key in ("include", "exclude") if key in table.values}
    kind = texts.get("type", str(RepoType.MODEL))
    if kind not in list(RepoType):
        msg = f'{table.at("type")}: type: expected {" or ".join(RepoType)}, got "{kind:.100}"'
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
        msg = f"{table.at(key)}: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error
    return model
