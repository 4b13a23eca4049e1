"""Turn the models of modelcache.toml into promises: commits, digests, sizes."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ConfigError, LockStale, RevisionNotFound
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.transfer.land import replacing
from ci_modelcache.verbs.fetch import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.project import ProjectModel
    from ci_modelcache.sources.protocol import RefName, Upstream
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

_VERSION = re.compile(r"v?(\d+(?:\.\d+){0,2}(?:[-+][0-9A-Za-z.+-]+)?)")


@frozen
class LockChange:
    """One model of the lock: *change* is ``kept``, ``added`` or ``moved``; *before* is the commit it moved from, or empty."""

    ref: str
    commit: str
    change: str
    before: str
    files: int
    size: int


@frozen
class LockReport:
    """What `lock` wrote to *path*; *removed* lists what modelcache.toml no longer names."""

    path: str
    models: tuple[LockChange, ...]
    removed: tuple[str, ...]
    seconds: float


def read_lock(path: Path) -> Lock:
    """The lock in the file at *path*; raises `ConfigError` when there is none and `IntegrityError` for a broken one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        msg = f"there is no {path}"
        raise ConfigError(msg, hint="write it with ci-modelcache lock, and commit it") from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}"
        raise ConfigError(msg) from error
    return Lock.from_toml(text, where=str(path))


def check_lock(models: Sequence[ProjectModel], lock: Lock) -> None:
    """Raise `LockStale` unless *lock* names exactly the *models*, with their revisions and patterns; asks nobody."""
    wanted = {_key(model): model for model in models}
    locked = {_key(model) for model in lock.models}
    missing = [_name(model) for key, model in wanted.items() if key not in locked]
    surplus = [_name(model) for model in lock.models if _key(model) not in wanted]
    if missing or surplus:
        parts = [f"it lacks {', '.join(missing)}"] if missing else []
        parts += [f"it still has {', '.join(surplus)}"] if surplus else []
        msg = f"modelcache.lock does not match modelcache.toml: {' and '.join(parts)}"
        raise LockStale(msg, hint="run ci-modelcache lock and commit modelcache.lock")


def lock(
    models: Sequence[ProjectModel], path: Path, *, upgrade: bool, cache: ModelCache, upstream: Upstream, step: Step
) -> LockReport:
    """
    Write the lock of *models* to *path*, filling the store on the way: a digest of every file needs every file once.

    What is locked already stays at its commit unless *upgrade*, which asks the authority again for branches, tags and ranges.
    """
    started = step.clock()
    before = read_lock(path) if path.exists() else Lock()
    known = {_key(model): model for model in before.models}
    kept = {} if upgrade else known
    locked = [
        kept[_key(model)] if _key(model) in kept else _lock(model, cache=cache, upstream=upstream, step=step)
        for model in models
    ]
    with replacing(path) as file:
        file.write(Lock(tuple(locked)).to_toml().encode())
    return LockReport(
        path=str(path),
        models=tuple(_change(model, known) for model in locked),
        removed=tuple(_name(model) for key, model in known.items() if key not in {_key(m) for m in models}),
        seconds=step.clock() - started,
    )


def _key(model: ProjectModel | LockedModel) -> tuple[str, str, str, str]:
    selection = model.selection if isinstance(model, LockedModel) else model.selection.id
    return model.repo, model.type.value, model.revision, selection


def _name(model: ProjectModel | LockedModel) -> str:
    return f"{model.repo}@{model.revision}"


def _change(model: LockedModel, known: dict[tuple[str, str, str, str], LockedModel]) -> LockChange:
    old = known[_key(model)].commit if _key(model) in known else ""
    change = "added" if not old else "kept" if old == model.commit else "moved"
    before = old if change == "moved" else ""
    return LockChange(_name(model), model.commit, change, before, len(model.files), model.size)


def _lock(model: ProjectModel, *, cache: ModelCache, upstream: Upstream, step: Step) -> LockedModel:
    if model.is_range:
        tag = newest(model.revision, upstream.tags(ModelRef(model.repo, type=model.type)), repo=model.repo)
        ref = ModelRef(model.repo, tag.commit, model.type)
    else:
        ref = model.ref
    report = fetch(ref, selection=model.selection, cache=cache, upstream=upstream, step=step)
    snapshot = SnapshotId(upstream.host, model.type, model.repo, report.commit, report.selection)
    manifest = cache.manifest(snapshot)
    return LockedModel.of(manifest, revision=model.revision, selection=model.selection)


def newest(range_: str, tags: Sequence[RefName], *, repo: str) -> RefName:
    """
    The tag with the highest version in *range_*, by the rules of npm (https://docs.npmjs.com/cli/using-npm/semver).

    Tags are versions with or without a leading ``v``; missing parts count as zero. Raises `RevisionNotFound`, or
    `ConfigError` for a range that cannot be read.
    """
    from semantic_version import NpmSpec, Version  # noqa: PLC0415  # only ranges need it

    try:
        spec = NpmSpec(range_)
    except ValueError as error:
        msg = f"{repo}: not a range of versions: {range_!r:.100}"
        raise ConfigError(msg, hint="write it as ^1.2, ~1.2.3 or >=1.0 <2.0") from error
    versions = {Version.coerce(match[1]): tag for tag in tags if (match := _VERSION.fullmatch(tag.name))}
    best = spec.select(versions)
    if best is None:
        found = ", ".join(sorted(tag.name for tag in tags)[:20]) or "none"
        msg = f"{repo} has no tag in the range {range_}; its tags: {found:.300}"
        raise RevisionNotFound(msg)
    return versions[best]
