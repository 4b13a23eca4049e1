"""The only module that asks a disk how much room it has."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import NoSpace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNIT = 1000
_ROUNDS_UP = 999.95
"""From here on one decimal shows as 1000.0."""


def format_bytes(count: float) -> str:
    """*count* bytes for people, in decimal units as disks and networks are sold: ``13.4 GB``."""
    if abs(round(count)) < _UNIT:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= _UNIT
        if abs(count) < _ROUNDS_UP:
            return f"{count:.1f} {unit}"
    count /= _UNIT
    return f"{count:.1f} TB"


def require_space(folder: Path, need: int) -> None:
    """Raise `NoSpace` unless the disk of *folder*, which need not exist yet, has *need* bytes free."""
    existing = _existing(folder)
    have = shutil.disk_usage(existing).free
    if have < need:
        short = format_bytes(need - have)
        msg = f"need {format_bytes(need)}, have {format_bytes(have)} on the disk of {existing}: {short} too little"
        raise NoSpace(msg, hint="free space there, or restore to another disk")


class Room:
    """The room on the disk of *folder* for those who fill it at the same time; it stands for one run, and is a guess beside others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._promised = 0
        self._lock = threading.Lock()

    @contextmanager
    def promised(self, need: int) -> Iterator[bool]:
        """Whether *need* bytes more than what others were promised are free; they are kept for the block if so."""
        with self._lock:
            fits = shutil.disk_usage(_existing(self._folder)).free - self._promised >= need
            kept = need if fits else 0
            self._promised += kept
        try:
            yield fits
        finally:
            with self._lock:
                self._promised -= kept


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, which need not exist yet, lie on one file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there; what may not be looked into counts as absent, and its parent tells the disk."""
    folder = folder.absolute()
    while not os.path.exists(folder):  # noqa: PTH110  # Path.exists raises where a parent may not be searched
        folder = folder.parent
    return folder
