"""The only module that makes a folder for as long as one command lasts, where nothing may stay behind: in the build of an image."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)

PREFIX = "ci-modelcache-"
"""What the name of such a folder begins with."""

IN_MEMORY = Path("/dev/shm")  # noqa: S108  # only new folders with random names are made there
USUAL = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # as above


@contextmanager
def scratch(folders: Sequence[Path]) -> Iterator[Path]:
    """
    Yield a new folder, for this user alone, in the first of *folders* that takes one; it is removed at the end, however the block ends.

    The folder that took it gets its mtime back, as else it would be part of the layer that a build makes. Raises `ConfigError`
    when none takes one.
    """
    refused: list[str] = []
    for parent in folders:
        try:
            before = parent.stat()
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
            continue
        try:
            yield folder
        finally:
            _remove(folder)
            _put_back(parent, before)
        return
    msg = f"no folder takes the notes of this run: {'; '.join(refused)}"
    raise ConfigError(msg, hint="set CI_MODELCACHE_STATE to a folder that may be written, such as a cache mount")


def _remove(folder: Path) -> None:
    # By another name: a thread that was left behind finds it no more, and puts nothing into it while it is emptied.
    gone = folder.with_name(f"{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    if gone.exists():
        _log.warning("%s could not be removed, and stays", gone)


def _put_back(folder: Path, before: os.stat_result) -> None:
    try:
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    except OSError as error:  # another user's, as /tmp mostly is; it may well be a mount, so that this does not matter
        _log.debug("the time of %s stays as it is: %s", folder, error)
