"""Make a snapshot of a local directory."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.errors import ConfigError, IntegrityError, SizeMismatch, SnapshotNotFound, UnsafePath
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.digest import Fingerprint, Fingerprinter
from ci_modelcache.model.git import pointer_oid, tree_oid
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.path import check_paths
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.land import PREFIX
from ci_modelcache.transfer.parallel import for_each
from ci_modelcache.verbs.ingest import refuse_too_many
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.publish import CHANGING, publish, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.verbs.step import Step

LFS_OVER = 10 * 1024 * 1024
"""Bytes above which a saved file counts as an LFS file, as on the Hub: its ETag is then its sha256."""

_SKIPPED = {".git", ".ci-modelcache"}
_SKIPPED_PATHS = {(".cache", "huggingface")}
_LEAVE_OUT = "leave it out with --exclude"


@frozen
class SaveReport:
    """What `save` did; sizes in bytes."""

    ref: str
    commit: str
    store: str
    manifest: str
    digest: str
    files: int
    size: int
    bytes_uploaded: int
    seconds: float


def save(
    directory: Path, ref: ModelRef, *, host: str, selection: Selection, cache: ModelCache, step: Step
) -> SaveReport:
    """
    Store the files of *directory* that *selection* selects as the repository of *ref*, under its revision.

    The commit is what git would call this tree, so that the same content always is the same snapshot. Symbolic
    links are stored as what they lead to, inside *directory* only: others raise `UnsafePath`, as do names that could not
    be restored everywhere. ``.git`` and the download notes of `huggingface_hub` are left out.
    """
    started = step.clock()
    if ref.is_pinned:
        msg = f"a saved snapshot cannot be named {ref.revision}: its commit follows from its content"
        raise ConfigError(msg, hint="name it as a branch or tag: org/name@2026-11-20")
    _refuse_taken(ref, host=host, cache=cache)
    contents = dict(_walk(directory, selection))
    if not contents:
        msg = f"nothing to save in {directory}"
        raise ConfigError(msg, hint="give the directory that holds the model's files; see also --include and --exclude")
    refuse_too_many(len(contents), str(directory))
    check_paths(contents)
    states = {path: _state(file) for path, file in contents.items()}
    seen = _fingerprints(list(contents.items()), states, step=step)
    entries = [_entry(path, states[path], seen[path]) for path in sorted(contents)]
    commit = tree_oid({entry.path: (entry.git_oid, entry.executable) for entry in entries})
    manifest = Manifest(host, ref.type, ref.repo, commit, ALL, tuple(entries))
    initialise(cache)
    uploaded = publish(
        manifest,
        contents,
        leaf_lists=[fingerprint.leaf_list for fingerprint in seen.values() if fingerprint.leaf_list is not None],
        provenance={"source": "saved"},
        cache=cache,
        step=step,
    )
    cache.put_head(host, ref, manifest.commit, SAVED)
    return SaveReport(
        ref=str(ref),
        commit=manifest.commit,
        store=cache.url,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(entries),
        size=manifest.size,
        bytes_uploaded=uploaded,
        seconds=step.clock() - started,
    )


def _refuse_taken(ref: ModelRef, *, host: str, cache: ModelCache) -> None:
    """Raise `ConfigError` for a branch of the Hub: whoever restores it would silently get another model from now on."""
    with suppress(SnapshotNotFound):
        if cache.head(host, ref).origin == HUB:
            msg = f"{ref} is a branch or tag of {host} in this store"
            raise ConfigError(msg, hint="save under a name that the Hub does not have, such as org/name@2026-11-20")


def _walk(directory: Path, selection: Selection) -> Iterator[tuple[str, Path]]:
    """Path in the snapshot and regular file, of all that *selection* selects."""
    with explaining_denial(directory):
        root = directory.resolve()
        if not root.is_dir():
            msg = f"not a directory: {directory}"
            raise ConfigError(msg, hint="give the directory that holds the model's files")
        # Without `onerror` a folder that cannot be read would be left out, and another model be saved.
        for folder, folders, names in os.walk(root, onerror=_raise):
            here = Path(folder).relative_to(root)
            folders[:] = sorted(name for name in folders if not _is_skipped(here / name))
            for name in sorted([*names, *(f for f in folders if (Path(folder) / f).is_symlink())]):
                path = (here / name).as_posix()
                if not _is_skipped(here / name) and selection.selects(path):
                    yield path, _regular(Path(folder) / name, root)


def _raise(error: OSError) -> None:
    raise error


def _is_skipped(relative: Path) -> bool:
    return relative.name in _SKIPPED or relative.parts in _SKIPPED_PATHS or relative.name.startswith(PREFIX)


def _regular(path: Path, root: Path) -> Path:
    """The regular file behind *path*, which must not lead out of *root*."""
    try:
        real = path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError, RuntimeError) as error:
        msg = f"{path} is a link that leads nowhere"
        raise UnsafePath(msg, hint=_LEAVE_OUT) from error
    # A snapshot folder of the Hub's own cache consists of links into the blobs folder beside it.
    inside = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(real.is_relative_to(folder) for folder in inside):
        msg = f"{path} is a link to {real}, outside of {root}"
        raise UnsafePath(msg, hint=f"copy that file into the directory, or {_LEAVE_OUT}")
    if real.is_dir():
        msg = f"{path} is a link to a folder"
        raise UnsafePath(msg, hint=f"put the folder itself there, or {_LEAVE_OUT}")
    if not real.is_file():
        msg = f"{path} is no regular file"
        raise UnsafePath(msg, hint=_LEAVE_OUT)
    return real


def _state(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except FileNotFoundError as error:
        msg = f"{file} vanished before it was read"
        raise IntegrityError(msg, hint=CHANGING) from error


def _fingerprints(
    contents: Sequence[tuple[str, Path]], states: Mapping[str, os.stat_result], *, step: Step
) -> dict[str, Fingerprint]:
    seen: dict[str, Fingerprint] = {}

    def hash_one(item: tuple[str, Path]) -> None:
        path, file = item
        size = states[path].st_size
        hasher = Fingerprinter(size, git=size <= LFS_OVER)
        for chunk in read_file(file):
            hasher.update(chunk)
            step.progress.advance(len(chunk))
            if hasher.seen > size:
                break  # or a file that grows as fast as it is read would never end
        if hasher.seen != size:
            raise SizeMismatch(str(file), expected=size, actual=hasher.seen, hint=CHANGING)
        seen[path] = hasher.finish()

    step.progress.start("hashing", sum(state.st_size for state in states.values()))
    try:
        for_each(contents, hash_one, workers=step.workers, deadline=step.deadline, doing="hashing")
    finally:
        step.progress.finish()
    return seen


def _entry(path: str, state: os.stat_result, seen: Fingerprint) -> FileEntry:
    oid = seen.git_oid or pointer_oid(seen.sha256, seen.size)
    executable = bool(state.st_mode & stat.S_IXUSR)
    return FileEntry(path, seen.size, seen.sha256, oid, seen.git_oid is None, executable, seen.leaves)
