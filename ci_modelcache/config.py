"""
The only module that reads the environment: what every setting is, and who said so.

A setting comes from the first of: its flag; its variable ``CI_MODELCACHE_<NAME>``; a variable of another tool that
speaks about this job (Hugging Face's); modelcache.toml, the nearest upward from the working directory, then the one in
the user's config folder; another setting that it is like; a variable that describes the machine (AWS, TLS, CI); its
default. An empty variable is an unset one. The settings themselves are listed in `ci_modelcache.settings`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
from attrs import frozen

from ci_modelcache.container import CACHE_MOUNT, in_build, in_container, mounted_tier
from ci_modelcache.errors import ConfigError
from ci_modelcache.kinds import SWITCH, Base
from ci_modelcache.model.encoding import Encoding
from ci_modelcache.model.mirror import Mirror
from ci_modelcache.model.mirror_table import TOKEN_OF, completed
from ci_modelcache.model.origin import Origin, Rank
from ci_modelcache.model.project import FILE, Project
from ci_modelcache.model.table import describe, unknown
from ci_modelcache.settings import (
    DEFAULT_ENDPOINT,
    OPTIONS,
    PREFIX,
    SETTINGS,
    Mode,
    OfflineEnv,
    ProgressStyle,
    Setting,
    System,
    variable,
)
from ci_modelcache.sources.token import Token
from ci_modelcache.tokens import TokenSearch, TokenSetting, Variables, targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CACHE_MOUNT", "Config", "Origin", "Rank", "environment", "in_build", "in_container", "mounted_tier"]

_log = logging.getLogger(__name__)


@frozen
class Config:
    """Every setting of `SETTINGS`, *origins* by setting, and the *project*: modelcache.toml, without models if there is none."""

    store: str
    replicas: tuple[str, ...]
    endpoint_url: str | None
    region: str | None
    role_to_assume: str | None
    mode: Mode
    encoding: Encoding
    endpoint: str
    token: Token | None
    offline: bool
    mirrors: tuple[Mirror, ...]
    """By priority, each url once."""
    trust_mirror_metadata: bool
    limit_rate: int | None
    """Bytes a second; None: no limit."""
    deadline: float | None
    """Seconds; None: no limit."""
    revision_ttl: float
    """Seconds."""
    hub_cache: Path
    state: Path
    tier: Path | None
    workers: int
    ca_bundle: Path | None
    hub_ca_bundle: Path | None
    store_ca_bundle: Path | None
    normalize: bool
    source_date_epoch: int
    lock_file: Path
    progress: ProgressStyle
    ci: System
    offline_env: OfflineEnv
    report: Path | None
    color: bool
    origins: dict[str, Origin]
    project: Project
    token_sources: tuple[TokenSetting, ...]
    """Where the tokens of the mirrors and, when somebody said so for its host, of the endpoint come from; each origin once."""
    variables: Variables
    """What else providers of tokens need of the environment; its values are secrets."""

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object],
        *,
        environ: Mapping[str, str],
        cwd: Path,
        in_container: bool = False,
        tier: Path | None = None,
    ) -> Self:
        """
        Find every setting; *flags* by setting name, None for one not given. *in_container* and *tier* are what this machine suggests.

        Raises `ConfigError` naming the flag, variable or line of a file that is wrong, also for an unknown one.
        """
        _check_variables(environ)
        home = Path(environ.get("HOME") or "/")
        projects = tuple(_projects(environ, cwd, home))
        own = next((file for file in projects if file.rank is Rank.PROJECT), _File(cwd, Project(FILE), Rank.PROJECT))
        places = _places(environ, home, own.folder) | {
            "in_container": "yes" if in_container else "no",
            "tier": "" if tier is None else str(tier),
        }
        search = _Search(flags, environ, Base(cwd, home), projects, places)
        found: dict[str, tuple[Any, Origin]] = {}
        for setting in SETTINGS:
            found[setting.name] = search.find(setting, found)
        found["token"] = _guarded(found["token"], found["endpoint"])
        tables = tuple((table, file.rank) for file in projects for table in file.content.mirrors)
        mirrors, named = found["mirrors"]
        found["mirrors"] = tuple(completed(one, (table for table, _ in tables)) for one in mirrors), named
        tokens = TokenSearch(environ, *found["tokens"], tables)
        values = {setting.attribute: found[setting.name][0] for setting in SETTINGS if setting.name != "tokens"}
        return cls(
            **values,
            origins={name: origin for name, (_, origin) in found.items()},
            project=own.content,
            token_sources=tokens.sources(targets(found["mirrors"], found["endpoint"])),
            variables=tokens.variables(),
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret that is known by now, for who hides them."""
        tokens = [self.token, *(source.provider for source in self.token_sources)]
        return (*(token.secret for token in tokens if isinstance(token, Token)), *self.variables.secrets)

    @property
    def mtime(self) -> int | None:
        """The time for every restored file, in epoch seconds; None: leave it alone."""
        return self.source_date_epoch if self.normalize else None


def environment() -> Mapping[str, str]:
    """The variables of this process."""
    return dict(os.environ)


@frozen
class _File:
    """One modelcache.toml: of the project or of the user, as *rank* says."""

    folder: Path
    content: Project
    rank: Rank


@frozen
class _Candidate:
    """A value somebody gave: as text or, in a file, as TOML has it."""

    raw: object
    origin: Origin
    base: Base


@frozen
class _Ready:
    """A value that was read together with its file."""

    value: object


@frozen
class _Search:
    """All that may say something about a setting."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    base: Base
    files: tuple[_File, ...]
    places: Mapping[str, str]

    def find(self, setting: Setting, found: Mapping[str, tuple[Any, Origin]]) -> tuple[Any, Origin]:
        """The value of *setting* and its origin, given those *found* before."""
        for candidate in self._said(setting):
            return _read(setting, candidate), candidate.origin
        if setting.like is not None and found[setting.like][0] is not None:
            return found[setting.like]
        for candidate in self._supposed(setting):
            return _read(setting, candidate), candidate.origin
        return None if setting.kind.split is None else (), Origin(Rank.DEFAULT, "default")

    def _said(self, setting: Setting) -> Iterator[_Candidate]:
        flag = self.flags.get(setting.name)
        if flag is not None and flag != ():
            no = "no-" if flag is False else ""
            raw = flag if isinstance(flag, tuple) else str(flag)
            yield _Candidate(raw, Origin(Rank.FLAG, f"flag --{no}{setting.flag_name or setting.name}"), self.base)
        if own := self.environ.get(setting.variable):
            yield _Candidate(own, Origin(Rank.VARIABLE, f"variable {setting.variable}"), self.base)
        yield from self._heard(setting, ambient=False)
        for file in self.files:
            if setting.name == "mirrors" and "mirrors" in file.content.lines:
                tables = sorted((table.mirror for table in file.content.mirrors), key=attrgetter("priority"))
                yield _Candidate(_Ready(tuple(tables)), Origin(file.rank, file.content.at("mirrors")), self.base)
            elif setting.name in file.content.settings:
                where = Origin(file.rank, file.content.at(setting.name))
                yield _Candidate(file.content.settings[setting.name], where, Base(file.folder, self.base.home))

    def _supposed(self, setting: Setting) -> Iterator[_Candidate]:
        yield from self._heard(setting, ambient=True)
        if setting.default_file is not None:
            path = self.base.path(setting.default_file.format(**self.places))
            if text := _content(path):
                yield _Candidate(text, Origin(Rank.DEFAULT, f"file {path}"), self.base)
        text = "" if setting.default is None else setting.default.format(**self.places)
        if text:
            yield _Candidate(text, Origin(Rank.DEFAULT, "default"), self.base)

    def _heard(self, setting: Setting, *, ambient: bool) -> Iterator[_Candidate]:
        for alias in setting.ambient if ambient else setting.aliases:
            value = self.environ.get(alias.variable)
            if value and value.lower() not in alias.ignored:
                origin = Origin(Rank.VARIABLE, f"variable {alias.variable}")
                yield _Candidate(alias.template.format(value), origin, self.base)


def _read(setting: Setting, candidate: _Candidate) -> object:
    raw, origin = candidate.raw, candidate.origin
    if isinstance(raw, _Ready):
        return raw.value
    if isinstance(raw, list) and tuple in setting.kind.toml and all(isinstance(each, str) for each in raw):
        raw = tuple(raw)
    in_file = origin.rank in {Rank.PROJECT, Rank.USER}
    where = f"{origin}: {setting.name}" if in_file else str(origin)
    if in_file and type(raw) not in setting.kind.toml:
        msg = f"{where}: expected {setting.kind.expected}, got {describe(raw)}"
        hint = "write true or false, without quotes" if setting.kind is SWITCH else None
        raise ConfigError(msg, hint=hint)
    text = "".join(raw).strip() if isinstance(raw, tuple) else str(raw).strip()
    if not text and raw != ():
        msg = f"{where}: expected {setting.kind.expected}, got nothing"
        raise ConfigError(msg, hint="leave it out to have the default")
    try:
        if setting.kind.split is None:
            return setting.kind.read(text, candidate.base)
        parts = raw if isinstance(raw, tuple) else setting.kind.split(text)
        return _in_order(setting.kind.read(part.strip(), candidate.base) for part in parts if part.strip())
    except ConfigError as error:
        msg = f"{where}: {error.message}"
        raise ConfigError(msg, hint=error.hint) from error


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """*values*, each once; mirrors get priorities that tell this order."""
    kept = dict.fromkeys(values)
    return tuple(
        attrs.evolve(value, priority=number) if isinstance(value, Mirror) else value
        for number, value in enumerate(kept, start=1)
    )


def _guarded(token: tuple[Any, Origin], endpoint: tuple[Any, Origin]) -> tuple[Any, Origin]:
    """
    The token, unless it would go to a host that a file of the repository chose.

    Whoever can propose a change to modelcache.toml could otherwise have the job's token sent to himself.
    """
    value, origin = token
    ours = next(setting.variable for setting in SETTINGS if setting.name == "token")
    chosen = endpoint[1].rank is Rank.PROJECT and endpoint[0] != DEFAULT_ENDPOINT
    if value is None or not chosen or origin.text == f"variable {ours}":
        return token
    _log.warning(
        "the token of %s is not used: %s names the endpoint %s; set %s to send a token there",
        *(origin, endpoint[1], endpoint[0], ours),
    )
    return None, Origin(Rank.DEFAULT, f"{origin}, not used: the endpoint is named by {endpoint[1]}")


def _check_variables(environ: Mapping[str, str]) -> None:
    known = [*(setting.variable for setting in SETTINGS), *map(variable, OPTIONS)]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(TOKEN_OF):
            raise unknown("variable", name, known, at="environment")


def _projects(environ: Mapping[str, str], cwd: Path, home: Path) -> Iterator[_File]:
    settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "ci-modelcache"
    nearest = next((folder for folder in (cwd, *cwd.parents) if _is_file(folder / FILE)), None)
    if nearest is not None and nearest != settings:
        yield _file(nearest, os.path.relpath(nearest / FILE, cwd), Rank.PROJECT, home=home)
    if _is_file(settings / FILE):
        users = _file(settings, str(settings / FILE), Rank.USER, home=home)
        if users.content.models:
            msg = f"{users.content.where} names models, which belong into the modelcache.toml of a project"
            raise ConfigError(msg, hint="move the [[models]] tables there")
        yield users


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        # A home folder of somebody else is usual in containers.
        _log.info("not looked for %s: %s", path, error)
        return False


def _file(folder: Path, where: str, rank: Rank, *, home: Path) -> _File:
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read {where}: {error}"
        raise ConfigError(msg) from error
    known = [setting.name for setting in SETTINGS if setting.in_file and setting.name != "mirrors"]
    secret = [setting.name for setting in SETTINGS if setting.secret]
    path, public = Base(folder, home).path, rank is Rank.PROJECT
    return _File(folder, Project.parse(text, where=where, known=known, secret=secret, path=path, public=public), rank)


def _places(environ: Mapping[str, str], home: Path, project: Path) -> dict[str, str]:
    cache = environ.get("XDG_CACHE_HOME") or str(home / ".cache")
    hub = environ.get("HF_HOME") or f"{cache}/huggingface"
    return {
        "cache": cache,
        "project": str(project),
        "token_file": environ.get("HF_TOKEN_PATH") or f"{hub}/token",
    }


def _content(path: Path) -> str:
    """The text of the file at *path*, empty when there is no such file."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        # A home folder of somebody else is usual in containers; whether a token is needed is not known here.
        _log.info("no token from %s: %s", path, error)
        return ""
