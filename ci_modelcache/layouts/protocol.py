"""What a layout is: where the files of a snapshot lie below a destination, and what makes them a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ci_modelcache.transfer.receipts import FORGETFUL

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.transfer.receipts import Receipts


class Layout(Protocol):
    """
    A destination for snapshots. The layout knows places and finishing touches; it brings no bytes.

    The order is: `content` of every file proven or landed by the verb, then `publish`. Until `publish`
    returned, nothing that a reader looks at says that the snapshot is complete. Every method raises only
    `ModelCacheError`: `AccessDenied` where the system refuses, `ConfigError` where something of the user's is in the way,
    `UnsafePath` where a write would end up elsewhere.
    """

    @property
    def root(self) -> Path:
        """The folder that belongs to this destination alone; its disk is the one that needs room."""

    @property
    def staging(self) -> Path:
        """A folder on the same disk for files that are being written; swept of leftovers before work begins."""

    @property
    def normalize_mtime(self) -> int | None:
        """The mtime that every file is to have, in seconds since the epoch; None: that with which it came."""

    @property
    def linkable(self) -> bool:
        """
        Whether a read-only hard link (`transfer.place`) may stand for a file, as nobody writes into the files of this layout in place.

        Not where all files are to have one mode and one time, which such a link shares with a file that is not ours.
        """

    @property
    def follows_links(self) -> bool:
        """
        Whether a symbolic link found at the place of a file, which leads to the right bytes, may stand for it (`transfer.receipts.check_file`).

        A wrong one is replaced, never written through.
        """

    def content(self, file: FileEntry | ListedFile) -> Path:
        """
        The place of the regular file that holds the bytes of *file*, whether or not it exists.

        Two files with the same content may share one.
        """

    def mode(self, file: FileEntry | ListedFile) -> int:
        """Permission bits of that regular file when it is written; a hard link keeps those that it has."""

    def publish(self, manifest: Manifest, ref: ModelRef, *, full: bool, receipts: Receipts = FORGETFUL) -> Path:
        """
        Make the snapshot visible once every content is in place; returns the path that users open.

        *ref* carries the revision as asked for; *full* tells whether the manifest is the whole commit rather than a
        selection. *receipts* are carried over what changes about the files here. Doing it again changes nothing.
        Raises `IntegrityError` when a content is not there after all.
        """

    def snapshot_path(self, commit: str) -> Path:
        """Where `publish` puts, or has put, the snapshot of *commit*."""

    def extra(self, manifest: Manifest) -> tuple[Path, ...]:
        """Files at the destination that the snapshot does not have, sorted; for reports and for pruning."""

    def prune(self, extra: Iterable[Path]) -> None:
        """Remove the files that `extra` named, and then the folders that are empty without them."""
