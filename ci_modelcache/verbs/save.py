"""Make a snapshot of a local directory."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ci_modelcache.cache.publication import Publication
from ci_modelcache.cache.records import HUB, SAVED
from ci_modelcache.errors import ConfigError, IntegrityError, SizeMismatch, SnapshotNotFound, UnsafePath
from ci_modelcache.layouts.inside import explaining_denial
from ci_modelcache.model.git import pointer_oid, tree_oid
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.path import check_paths
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.beside import Beside
from ci_modelcache.transfer.land import PREFIX
from ci_modelcache.transfer.progress import Later
from ci_modelcache.transfer.stages import Stages
from ci_modelcache.verbs.ingest import refuse_too_many
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.publish import CHANGING, Sending, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.digest import Digest, Fingerprint
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.model.selection import Selection
    from ci_modelcache.verbs.step import Step

_WORTH = 32 * 1024 * 1024
"""Bytes that are announced together, at least, while more is being hashed: each announcement is a few requests."""
LFS_OVER = 10 * 1024 * 1024
"""Bytes above which a saved file counts as an LFS file, as on the Hub: its ETag is then its sha256."""

_SKIPPED = {".git", ".ci-modelcache"}
_SKIPPED_PATHS = {".cache/huggingface"}
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
    initialise(cache)
    with Publication(cache) as publication:
        sending = Sending(publication, step)
        seen = _send_all(contents, states, sending, doing=f"saving {ref.repo}")
        entries = [_entry(path, states[path], seen[path]) for path in sorted(contents)]
        commit = tree_oid({entry.path: (entry.git_oid, entry.executable) for entry in entries})
        manifest = Manifest(host, ref.type, ref.repo, commit, ALL, tuple(entries))
        leaf_lists = [each.leaf_list for each in seen.values() if each.leaf_list is not None]
        publication.commit(manifest, leaf_lists, provenance={"source": "saved"})
    cache.put_head(host, ref, manifest.commit, SAVED)
    return SaveReport(
        ref=str(ref),
        commit=manifest.commit,
        store=cache.url,
        manifest=manifest.digest.hex,
        digest=manifest.set_digest.hex,
        files=len(entries),
        size=manifest.size,
        bytes_uploaded=sum(sending.uploaded),
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
            inside = os.path.relpath(folder, root)
            here = "" if inside == os.curdir else f"{inside}/"
            folders[:] = sorted(name for name in folders if not _is_skipped(here + name))
            for name in sorted([*names, *(f for f in folders if Path(folder, f).is_symlink())]):
                path = here + name
                if not _is_skipped(path) and selection.selects(path):
                    yield path, _regular(Path(folder, name), root)


def _raise(error: OSError) -> None:
    raise error


def _is_skipped(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name in _SKIPPED or path in _SKIPPED_PATHS or name.startswith(PREFIX)


def _regular(path: Path, root: Path) -> Path:
    """The regular file behind *path*, which must not lead out of *root*."""
    try:
        # The folder is no link, for nobody walks into one: only a link itself leads elsewhere.
        if stat.S_ISREG(path.lstat().st_mode):
            return path
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


def _send_all(
    contents: Mapping[str, Path], states: Mapping[str, os.stat_result], sending: Sending, *, doing: str
) -> dict[str, Fingerprint]:
    """Hash all of *contents*, and beside that store what was hashed."""
    step, later = sending.step, Later(sending.step.progress)
    sending = evolve(sending, step=evolve(step, progress=later))
    total = sum(state.st_size for state in states.values())
    seen: dict[str, Fingerprint] = {}
    first: dict[Digest, str] = {}
    """The path that stands for all files with the same bytes."""
    ended = itertools.count(1)

    def hash_one(path: str) -> str:
        seen[path] = _hashed(contents[path], states[path].st_size, step)
        if next(ended) == len(contents):
            later.start(doing, total)
        return path

    def announce(paths: Sequence[str]) -> None:
        for path in paths:
            first.setdefault(seen[path].sha256, path)
        sending.announce({seen[path].sha256 for path in paths})

    def put(path: str) -> None:
        if first[seen[path].sha256] == path:
            sending.put(contents[path], seen[path])
        else:
            later.advance(seen[path].size)

    stages = Stages(
        sorted(contents, key=lambda path: -states[path].st_size),
        prepare=hash_one,
        gather=announce,
        finish=put,
        weigh=lambda path: seen[path].size,
        worth=_WORTH,
    )
    step.progress.start("hashing", total)
    try:
        stages.run(workers=step.workers, deadline=step.deadline, doing=doing)
    finally:
        step.progress.finish()
    return seen


def _hashed(file: Path, size: int, step: Step) -> Fingerprint:
    hasher = Beside(size, git=size <= LFS_OVER)
    for chunk in read_file(file):
        hasher.update(chunk)
        step.progress.advance(len(chunk))
        if hasher.seen > size:
            break  # or a file that grows as fast as it is read would never end
    if hasher.seen != size:
        raise SizeMismatch(str(file), expected=size, actual=hasher.seen, hint=CHANGING)
    return hasher.finish()


def _entry(path: str, state: os.stat_result, seen: Fingerprint) -> FileEntry:
    oid = seen.git_oid or pointer_oid(seen.sha256, seen.size)
    executable = bool(state.st_mode & stat.S_IXUSR)
    return FileEntry(path, seen.size, seen.sha256, oid, seen.git_oid is None, executable, seen.leaves)
