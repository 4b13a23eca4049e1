"""What a layout is: where the files of a snapshot lie below a destination, and what makes them a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.model.manifest import FileEntry, Manifest
    from ci_modelcache.model.ref import ModelRef


class Layout(Protocol):
    """
    A destination for snapshots. The layout knows places and finishing touches; it moves no bytes.

    The order is: `content` of every file proven or landed by the verb, then `publish`. Until `publish`
    returned, nothing that a reader looks at says that the snapshot is complete.
    """

    @property
    def root(self) -> Path:
        """The folder that belongs to this destination alone; its disk is the one that needs room."""

    @property
    def staging(self) -> Path:
        """A folder on the same disk for files that are being written; swept of leftovers before work begins."""

    @property
    def linkable(self) -> bool:
        """Whether a read-only hard link may stand for a file: nobody writes into the files of this layout in place."""

    def content(self, file: FileEntry) -> Path:
        """The regular file that holds the bytes of *file*; two files with the same content may share one."""

    def mode(self, file: FileEntry) -> int:
        """Permission bits of that regular file."""

    def publish(self, manifest: Manifest, ref: ModelRef, *, full: bool) -> Path:
        """
        Make the snapshot visible once every content is in place; returns the path that users open.

        *ref* carries the revision as asked for; *full* tells whether the manifest is the whole
        commit rather than a selection. Doing it again changes nothing.
        """

    def snapshot_path(self, commit: str) -> Path:
        """Where `publish` puts, or has put, the snapshot of *commit*."""

    def extra(self, manifest: Manifest) -> tuple[Path, ...]:
        """Files at the destination that the snapshot does not have, sorted; for reports and for pruning."""
