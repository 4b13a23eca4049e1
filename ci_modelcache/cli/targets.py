"""The only module that decides which models a command line means, and into which folders they go."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.config import Rank
from ci_modelcache.errors import ConfigError, InvalidRef, SnapshotNotFound
from ci_modelcache.model.project import is_range
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.locked import check_lock, read_lock
from ci_modelcache.verbs.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.config import Config
    from ci_modelcache.model.lock import Lock, LockedModel
    from ci_modelcache.model.ref import SnapshotId
    from ci_modelcache.sources.protocol import Upstream


@frozen
class Asked:
    """What the command line says about models: references and the options of `naming.selecting`."""

    refs: tuple[str, ...]
    revision: str | None
    type: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def named(self, locks: Sequence[Lock] = ()) -> tuple[Target, ...]:
        """The models that are named; a range is one that a lock of *locks* has under that name."""
        return tuple(Target(self._ref(text, locks), self._selection) for text in self.refs)

    @property
    def _selection(self) -> Selection:
        return Selection(self.include, self.exclude)

    def _ref(self, text: str, locks: Sequence[Lock]) -> ModelRef:
        kind = None if self.type is None else RepoType(self.type)
        name, at, range_ = text.partition("@")
        revision = self.revision
        if at and is_range(range_) and revision in {None, range_}:
            revision, text = range_, name
        if revision is None or not is_range(revision):
            return ModelRef.parse(text, revision=revision, type=kind)
        ref = ModelRef.parse(text, type=kind)
        for lock in locks:
            return ref.at(lock.named(ref, revision, self._selection).commit)
        msg = f"{text}@{revision} is a range of versions, and only a lock says which one is meant"
        raise InvalidRef(msg, hint="write it into modelcache.toml, run ci-modelcache lock, and use --locked")


@frozen
class Target:
    """One model to work on."""

    ref: ModelRef
    selection: Selection


def targets(
    asked: Asked, config: Config, *, locks: Sequence[Lock] = (), listed: Sequence[Target] = ()
) -> tuple[Target, ...]:
    """
    The models named on the command line, or else those of the lock, or else those *listed* elsewhere, or else those of modelcache.toml.

    Raises `ConfigError` when that leaves none, or options that would then apply to nothing.
    """
    if asked.refs:
        return asked.named(locks)
    if asked != Asked((), None, None, (), ()):
        msg = "--revision, --type, --include and --exclude go with a model, and none is named"
        raise ConfigError(msg, hint=f"name one, or write them into {config.project.where}")
    for lock in locks:
        return tuple(Target(_locked_ref(model), model.asked) for model in lock.models)
    if listed:
        return tuple(listed)
    if not config.project.models:
        msg = f"no model is named, and {config.project.where} names none either"
        raise ConfigError(msg, hint='name one such as org/name@main, or add [[models]] repo = "org/name" to that file')
    return tuple(Target(model.ref, model.selection) for model in config.project.models)


def _locked_ref(model: LockedModel) -> ModelRef:
    # A range is nobody's branch: in a Hub cache it would become a file that no client looks for.
    return ModelRef(model.repo, model.commit if is_range(model.revision) else model.revision, model.type)


def folders(chosen: Sequence[Target], to: str | None, *, named: int) -> tuple[Path | None, ...]:
    """
    Where each of the *chosen* goes: None is the Hub cache, for *to* was not given.

    The one model that was *named* goes into *to* itself, several each into a folder of its own below it; so does
    a project's only model, for else the second one would move the first.
    """
    if to is None:
        return tuple(None for _ in chosen)
    root = Path(to).absolute()
    if named == 1:
        return (root,)
    places = tuple(root.joinpath(*target.ref.repo.split("/")) for target in chosen)
    for place, count in Counter(places).items():
        if count > 1:
            msg = f"{count} of the models would go into the same folder {place}"
            raise ConfigError(msg, hint="restore them one by one, each with its own --to")
    return places


def locks(config: Config, *, locked: bool | None, named: bool) -> tuple[Lock, ...]:
    """
    The lock that must be kept to, if *locked*; None leaves that to whether models are *named* and there is a lock.

    Unless models are named it must also match modelcache.toml, or `LockStale` is raised.
    """
    if not _is_locked(config, locked=locked, named=named):
        return ()
    lock = read_lock(config.lock_file)
    if not named and config.project.models:
        check_lock(config.project.models, lock)
    return (lock,)


def _is_locked(config: Config, *, locked: bool | None, named: bool) -> bool:
    """Whether the lock counts: as *locked* says, or when no model is *named* and there is one, or somebody said where it is."""
    if locked is not None:
        return locked
    return not named and (config.lock_file.exists() or config.origins["lock-file"].rank is not Rank.DEFAULT)


def naming_file(config: Config, *, locked: bool | None, named: bool) -> tuple[Path, ...]:
    """The file in which the models stand that are restored: the lock, else modelcache.toml, or none when all are *named* on the command line."""
    if _is_locked(config, locked=locked, named=named):
        return (config.lock_file,)
    return () if named or not config.project.models else (Path(config.project.where),)


def stored(refs: Sequence[str], *, cache: ModelCache, host: Upstream) -> Iterator[SnapshotId]:
    """
    The snapshots in *cache* that *refs* mean there, whole and partial; all of them without *refs*.

    Raises `SnapshotNotFound` for one that the store does not hold.
    """
    if not refs:
        yield from cache.snapshots()
    for ref in map(ModelRef.parse, refs):
        commit = resolve(ref, cache=cache, upstream=host, revision_ttl=math.inf).commit
        found = [one for one in cache.snapshots_of(host.host, ref.type, ref.repo) if one.commit == commit]
        if not found:
            msg = f"{cache.url} holds no snapshot of {ref}"
            raise SnapshotNotFound(msg, hint="ci-modelcache ls lists what it holds")
        yield from found
