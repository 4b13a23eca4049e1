"""
The only module that knows the cache folder of ``huggingface_hub``, as every version from 0.23 to 2.4 reads it.

::

    <cache>/models--org--name/
      blobs/<etag>                  the bytes; the name is the Hub's ETag
      snapshots/<commit>/<path>     relative links into blobs/
      trees/<commit>.json           the listing of a whole commit (read since 1.22)
      refs/<revision>               the commit: 40 hex digits and no newline, or no version finds it
      .no_exist/<commit>/<path>     written by transformers: "asked for, and not there"
      .ci-modelcache/               files that are being written; not there any more in an image
      CACHEDIR.TAG                  for backup tools

The clients ignore the last two, here; a CACHEDIR.TAG in <cache> itself makes `scan_cache_dir` before 1.9 complain.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ci_modelcache.errors import ConfigError, ManifestInvalid, RevisionNotFound, SnapshotNotFound
from ci_modelcache.layouts.inside import (
    DENIALS,
    explaining_denial,
    inside,
    require_below,
    require_file,
    require_no_folder,
)
from ci_modelcache.layouts.tidy import FOLDER_MODE, Before, Tidying
from ci_modelcache.model.digest import is_git_oid
from ci_modelcache.model.document import parse_json
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import ALL
from ci_modelcache.transfer.land import replacing, sweep
from ci_modelcache.transfer.partial import sweep_partials
from ci_modelcache.transfer.receipts import FORGETFUL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.transfer.receipts import Receipts

_log = logging.getLogger(__name__)

_TREE_FORMAT = 1
_NOTE_MODE = 0o644
_CACHE_TAG = """\
Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by ci-modelcache.
# For information about cache directory tags, see https://bford.info/cachedir/
"""
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


class HubCacheLayout:
    """
    One repository in the cache folder *cache_dir* (``HF_HUB_CACHE``), beside what the Hub's own clients keep there; a `Layout`.

    Revisions share the blobs that they have in common, and several processes may publish at once. With *normalize_mtime* (seconds
    since the epoch) all that belongs to a snapshot is as `PlainLayout` makes it, links too, and nothing of ours is left but
    the CACHEDIR.TAG; the folders, refs and listings that were here before get that mtime, and keep mode and owner, as others share
    them. A malformed *repo* raises `InvalidRef`.
    """

    def __init__(
        self, cache_dir: Path, repo: str, type: RepoType = RepoType.MODEL, *, normalize_mtime: int | None = None
    ) -> None:
        self._asked = ModelRef(repo, type=type)
        self.root = cache_dir / "--".join((f"{type.value}s", *repo.split("/")))
        self.normalize_mtime = normalize_mtime
        if normalize_mtime is None:
            self._before, self._had_blobs = Before(), True
        else:
            self._before, self._had_blobs = Before.of(self.root), self._blobs.is_dir()

    @property
    def staging(self) -> Path:
        return self.root / ".ci-modelcache"

    @property
    def linkable(self) -> bool:
        return self.normalize_mtime is None

    @property
    def follows_links(self) -> bool:
        return True

    def content(self, file: FileEntry | ListedFile) -> Path:
        # A client (since 1.32) may have made this a link into a store that repositories share: left to be judged by
        # its bytes, and replaced, not followed, by whoever lands a file here.
        blob = self._blobs / file.etag
        require_no_folder(blob)
        return blob

    def mode(self, file: FileEntry | ListedFile) -> int:
        del file  # blobs are shared between paths, so that none is executable; nor does any client make it so
        return 0o644

    def publish(self, manifest: Manifest, ref: ModelRef, *, full: bool, receipts: Receipts = FORGETFUL) -> Path:
        tidying, snapshot = Tidying(self.normalize_mtime), self.snapshot_path(manifest.commit)
        with explaining_denial(self.root):
            there = self._there(manifest, ref) if tidying.for_layer else set()
            snapshot.mkdir(parents=True, exist_ok=True)
            denied = self._denied(manifest).exists()
            for file in manifest.files:
                require_file(self.content(file), size=file.size, links=True)
                self._link(snapshot, file)
                if denied:
                    # A mirror's 404 from earlier makes `try_to_load_from_cache` deny a file that is there.
                    self._absence(manifest.commit, file).unlink(missing_ok=True)
            self._annotate(manifest, full=full)
            if not ref.is_pinned:
                # Last: by this the clients find the snapshot.
                self._write(inside(self.root / "refs", ref.revision), manifest.commit)
            sweep_partials(self.staging)
            if tidying.for_layer:
                self._tidy(manifest, ref, there, tidying, receipts)
        tidying.report(self.root)
        return snapshot

    def snapshot_path(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def resolve(self, revision: str) -> str:
        """
        The commit that *revision* means in this folder, whose snapshot (or a part of it) is here.

        Raises `RevisionNotFound`, `SnapshotNotFound`, or `ManifestInvalid` for a ref that is no commit.
        """
        ref = self._asked.at(revision)
        commit = revision if ref.is_pinned else self._read_ref(ref)
        with explaining_denial(self.root):
            if not self.snapshot_path(commit).is_dir():
                msg = f"{self.root} has no snapshot of {self._asked.at(commit)}"
                raise SnapshotNotFound(msg, hint=f"run ci-modelcache restore {ref}")
        return commit

    def extra(self, manifest: Manifest) -> tuple[Path, ...]:
        """
        Files in the snapshot's folder that the commit does not have.

        Beside a selection everything else may well be of the commit, so nothing is extra.
        """
        snapshot = self.snapshot_path(manifest.commit)
        if manifest.selection != ALL:
            return ()
        wanted = {snapshot / file.path for file in manifest.files}
        with explaining_denial(snapshot):
            found = [path for path in snapshot.rglob("*") if path.is_symlink() or not path.is_dir()]
        return tuple(sorted(path for path in found if path not in wanted))

    def prune(self, extra: Iterable[Path]) -> None:
        """Remove the links that `extra` named; blobs stay, as other commits may have them."""
        tidying = Tidying(self.normalize_mtime)
        with explaining_denial(self.root):
            for path in extra:
                require_below(self.root / "snapshots", path)
                path.unlink(missing_ok=True)
                folder = path.parent
                with suppress(OSError):  # not empty, as most folders are
                    while folder.parent != self.root / "snapshots":
                        folder.rmdir()
                        folder = folder.parent
                tidying.give_time(folder)
        tidying.report(self.root)

    @property
    def _blobs(self) -> Path:
        return self.root / "blobs"

    def _denied(self, manifest: Manifest) -> Path:
        return self.root / ".no_exist" / manifest.commit

    def _absence(self, commit: str, file: FileEntry) -> Path:
        return inside(self.root / ".no_exist" / commit, file.path)

    def _notes(self, manifest: Manifest, ref: ModelRef) -> list[Path]:
        """Where what is said about the snapshot lies, if it is said."""
        refs = [] if ref.is_pinned else [inside(self.root / "refs", ref.revision)]
        return [self.root / "CACHEDIR.TAG", self.root / "trees" / f"{manifest.commit}.json", *refs]

    def _folders(self, manifest: Manifest, ref: ModelRef) -> set[Path]:
        """The folders below the root into which publishing writes, as far as they are there."""
        snapshot = self.snapshot_path(manifest.commit)
        denied = self._denied(manifest)
        absences = [self._absence(manifest.commit, file) for file in manifest.files] if denied.exists() else []
        files = [snapshot / file.path for file in manifest.files]
        paths = (self._blobs / "any", snapshot / "any", denied / "any", *files, *absences, *self._notes(manifest, ref))
        found: set[Path] = set()
        for path in paths:
            folder = path.parent
            while folder != self.root and folder not in found:
                found.add(folder)
                folder = folder.parent
        return {folder for folder in found if folder.is_dir()}

    def _there(self, manifest: Manifest, ref: ModelRef) -> set[Path]:
        """The folders and notes that were here before, which others share."""
        notes = {path for path in self._notes(manifest, ref) if path.exists()}
        return {*notes, *self._folders(manifest, ref)} - (set() if self._had_blobs else {self._blobs})

    def _tidy(self, manifest: Manifest, ref: ModelRef, there: set[Path], tidying: Tidying, receipts: Receipts) -> None:
        """Give all that publishing has made, or found in place, what the layer of an image needs; *there* gets the time alone."""
        snapshot = self.snapshot_path(manifest.commit)
        for file in manifest.files:
            blob, mode = self.content(file), self.mode(file)
            seen = blob.lstat()
            if stat.S_ISLNK(seen.st_mode):
                tidying.give_link(blob)
            else:
                expected, staging = file.expected, self.staging
                tidying.give_file(blob, seen, mode=mode, expected=expected, staging=staging, receipts=receipts)
            tidying.give_link(snapshot / file.path)
        sweep(self.staging)
        # OSError: another restore of this repository is still at work, and removes it when it is done.
        with suppress(OSError):
            self.staging.rmdir()
        for path in (note for note in self._notes(manifest, ref) if note.exists()):
            tidying.give_time(path) if path in there else tidying.give(path, _NOTE_MODE)
        for folder in self._folders(manifest, ref):
            tidying.give_time(folder) if folder in there else tidying.give(folder, FOLDER_MODE)
        tidying.give_time(self.root)
        tidying.give_above(self._before)
        self._before, self._had_blobs = Before(), True

    def _read_ref(self, ref: ModelRef) -> str:
        path = inside(self.root / "refs", ref.revision)
        with explaining_denial(path):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, NotADirectoryError):
                msg = f"{self.root} knows no revision {ref.revision}"
                raise RevisionNotFound(msg, hint=f"run ci-modelcache restore {ref}") from None
        if not is_git_oid(text):
            msg = f"{path}: expected a commit of 40 hex digits and nothing else, got {text!r:.100}"
            raise ManifestInvalid(msg, hint=f"run ci-modelcache restore {ref}, which writes it anew")
        return text

    def _link(self, snapshot: Path, file: FileEntry) -> None:
        """
        Make the snapshot's path a link to the blob, replacing whatever file or link is there.

        On a disk without symbolic links the clients put the files themselves there, unproven and without blobs.
        """
        target = inside(snapshot, file.path)
        goal = "../" * (2 + file.path.count("/")) + f"blobs/{file.etag}"
        if _leads_to(target, goal):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with _explaining_no_links(target):
            try:
                target.symlink_to(goal)
            except FileExistsError:
                self._replace_link(target, goal)

    def _replace_link(self, target: Path, goal: str) -> None:
        staged = self.staging / f"link-{secrets.token_hex(8)}"
        made = False
        while not made:
            self.staging.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # whoever has just finished here took the empty folder away
                staged.symlink_to(goal)
                made = True
        try:
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def _annotate(self, manifest: Manifest, *, full: bool) -> None:
        """
        Write the tag for backup tools, and the listing by which newer clients tell that a full snapshot is complete.

        The listing has no ``xet_hash``, which would send them to a server that no mirror stands in for; a client's own
        listing of the same files, which has it, stays. All clients do without either, so where a cache that is
        complete cannot be written, they are left out.
        """
        tag, tree = self.root / "CACHEDIR.TAG", self.root / "trees" / f"{manifest.commit}.json"
        listing = {file.path: _tree_entry(file) for file in manifest.files}
        try:
            if not tag.exists():
                self._write(tag, _CACHE_TAG)
            if full and _read_tree(tree) != listing:
                self._write(tree, json.dumps({"format_version": _TREE_FORMAT, "files": listing}, indent=1))
        except OSError as error:
            if error.errno not in DENIALS:
                raise
            _log.debug("%s is used as it is: %s", self.root, error)

    def _write(self, path: Path, text: str) -> None:
        """Make *path* a file of *text*, unless it is that already: a cache may be read-only, and readers watch mtimes."""
        try:
            same = path.read_text(encoding="utf-8", errors="replace") == text
        except FileNotFoundError:
            same = False
        if not same:
            with replacing(path, staging=self.staging) as file:
                file.write(text.encode())


def _leads_to(link: Path, goal: str) -> bool:
    """Whether *link* is a symbolic link to *goal*, word for word."""
    try:
        return os.readlink(link) == goal  # noqa: PTH115  # the text itself: a `Path` would change it
    except OSError:  # absent or no link; whoever makes it learns of anything else
        return False


def _tree_entry(file: FileEntry) -> dict[str, object]:
    """As ``huggingface_hub/_tree_cache.py`` (2.4) writes it: ``blob_id`` is git's name, of the pointer for an LFS file."""
    entry: dict[str, object] = {"size": file.size, "blob_id": file.git_oid}
    if file.lfs:
        entry |= {"lfs_sha256": file.sha256.hex, "lfs_size": file.size}
    return entry


def _read_tree(path: Path) -> dict[str, Any]:
    """The files of an existing listing without ``xet_hash``; none when there is no listing that a client could read."""
    try:
        tree = parse_json(path.read_bytes(), str(path))
        if tree["format_version"] != _TREE_FORMAT:
            return {}
        return {
            name: {key: value for key, value in entry.items() if key != "xet_hash"}
            for name, entry in tree["files"].items()
        }
    except (FileNotFoundError, ManifestInvalid, LookupError, TypeError, AttributeError):  # nobody's: it is rewritten
        return {}


@contextmanager
def _explaining_no_links(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        msg = f"the disk of {target} has no symbolic links, which this layout is made of: {error.strerror}"
        raise ConfigError(msg, hint="put the cache on another disk, or restore to a plain folder with --to") from error
