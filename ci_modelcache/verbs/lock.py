"""Turn the models of modelcache.toml into promises: commits, digests, sizes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.publication import published
from ci_modelcache.errors import AccessDenied, ConfigError, IntegrityError, RevisionNotFound
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef, SnapshotId
from ci_modelcache.transfer.land import replacing
from ci_modelcache.verbs.fetch import ingest_listed
from ci_modelcache.verbs.locked import key_of, name_of, read_lock
from ci_modelcache.verbs.resolve import STORE, note_head, resolve_now

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


def lock(
    models: Sequence[ProjectModel], path: Path, *, upgrade: bool, cache: ModelCache, upstream: Upstream, step: Step
) -> LockReport:
    """
    Write the lock of *models* to *path*, filling the store on the way: a digest of every file needs every file once.

    What is locked already stays at its commit unless *upgrade*, which asks the authority again for branches, tags and ranges.
    """
    started = step.clock()
    _refuse_twice(models)
    before = _before(path, upgrade=upgrade)
    known = {key_of(model): model for model in before.models}
    kept = {} if upgrade else known
    locked = [
        kept[key_of(model)] if key_of(model) in kept else _lock(model, cache=cache, upstream=upstream, step=step)
        for model in models
    ]
    _write(path, Lock(tuple(locked)).to_toml())
    return LockReport(
        path=str(path),
        models=tuple(_change(model, known) for model in locked),
        removed=tuple(name_of(model) for key, model in known.items() if key not in {key_of(m) for m in models}),
        seconds=step.clock() - started,
    )


def _refuse_twice(models: Sequence[ProjectModel]) -> None:
    seen = Counter(map(key_of, models))
    for model in models:
        if seen[key_of(model)] > 1:
            msg = f"modelcache.toml names {name_of(model)} twice, with the same patterns"
            raise ConfigError(msg, hint="take one of the two out")


def _before(path: Path, *, upgrade: bool) -> Lock:
    """The lock as it is. A broken one stops everything but an upgrade: nothing else may move what it pinned."""
    if not path.exists():
        return Lock()
    try:
        return read_lock(path)
    except IntegrityError as error:
        if not upgrade:
            error.hint = f"restore {path} from git; or delete it and lock anew, which pins branches where they are now"
            raise
        _log.warning("%s is written anew: %s", path, error)
        return Lock()


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise AccessDenied(msg, hint="check the owner and the permissions of its folder") from error


def _change(model: LockedModel, known: dict[tuple[str, str, str, str], LockedModel]) -> LockChange:
    old = known[key_of(model)].commit if key_of(model) in known else ""
    change = "added" if not old else "kept" if old == model.commit else "moved"
    before = old if change == "moved" else ""
    return LockChange(name_of(model), model.commit, change, before, len(model.files), model.size)


def _lock(model: ProjectModel, *, cache: ModelCache, upstream: Upstream, step: Step) -> LockedModel:
    """
    Lock *model* by what the authority lists and bytes that prove it.

    The store's own manifest is not believed, as it is elsewhere: a lock stands above it, and would vouch for a lie in it.
    Only of what somebody saved there is no other authority.
    """
    if model.is_range:
        tag = newest(model.revision, upstream.tags(ModelRef(model.repo, type=model.type)), repo=model.repo)
        ref = ModelRef(model.repo, tag.commit, model.type)
    else:
        ref = model.ref
    resolution = resolve_now(ref, cache=cache, upstream=upstream)
    snapshot = SnapshotId(upstream.host, model.type, model.repo, resolution.commit, model.selection.id)
    if resolution.anchor == STORE:
        manifest = published(cache, snapshot)
    else:
        ingested = ingest_listed(snapshot, ref, model.selection, cache=cache, upstream=upstream, step=step)
        manifest = ingested.manifest
        note_head(ref, resolution, cache=cache, host=upstream.host)
    return LockedModel.of(manifest, revision=model.revision, selection=model.selection)


def newest(range_: str, tags: Sequence[RefName], *, repo: str) -> RefName:
    """
    The tag with the highest version in *range_*, by the rules of npm (https://docs.npmjs.com/cli/using-npm/semver).

    Tags are versions with or without a leading ``v``; missing parts count as zero. Of several tags of one version the
    last by name is taken. Raises `RevisionNotFound`, or `ConfigError` for a range that cannot be read.
    """
    from semantic_version import NpmSpec, Version  # noqa: PLC0415  # only ranges need it

    try:
        spec = NpmSpec(range_)
    except ValueError as error:
        msg = f"{repo}: not a range of versions: {range_!r:.100}"
        raise ConfigError(msg, hint="write it as ^1.2, ~1.2.3 or >=1.0 <2.0") from error
    ordered = sorted(tags, key=lambda tag: tag.name)
    versions = {Version.coerce(match[1]): tag for tag in ordered if (match := _VERSION.fullmatch(tag.name))}
    best = spec.select(versions)
    if best is None:
        found = ", ".join(sorted(tag.name for tag in tags)[:20]) or "none"
        msg = f"{repo} has no tag in the range {range_}; its tags: {found:.300}"
        raise RevisionNotFound(msg, hint="widen the range; a pre-release is taken only by a range that names one")
    return versions[best]
