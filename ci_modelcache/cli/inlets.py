"""The only module that finds out what a user means by the name of an archive to read."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.cli.opening import open_named
from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.inlet import StoredInlet
from ci_modelcache.stores.keys import is_key
from ci_modelcache.transfer.inlet import FileInlet, FilePipe, NamedPipe, explaining_failure
from ci_modelcache.verbs.split import joined, staged

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run
    from ci_modelcache.transfer.inlet import Inlet, PartsInlet, Pipe
    from ci_modelcache.verbs.split import Look, StagedReport

_HINT = "name a file, - for stdin, or an object: s3://bucket/path/name.tar"


def inlet_of(archive: str, run: Run) -> Inlet | Pipe:
    """What *archive* names: a file, its parts, an object, or stdin (``-``); raises `ConfigError` and `NotFound`."""
    if archive == "-":
        if sys.stdin is None or sys.stdin.isatty():
            msg = "the archive was to come from stdin, which is a terminal or closed"
            raise ConfigError(msg, hint=_HINT)
        return FilePipe("-", sys.stdin.buffer)
    name, look = _looking(archive, run)
    if "://" not in archive and _is_pipe(Path(archive)):
        return NamedPipe(Path(archive))
    return joined(name, look, step=run.step)


def part_of(archive: str, number: int, run: Run) -> PartsInlet | StagedReport:
    """As `staged`, for the archive that *archive* names."""
    if archive == "-":
        msg = "a part has a name, and sums beside it; stdin has neither"
        raise ConfigError(msg, hint=_HINT)
    name, look = _looking(archive, run)
    return staged(name, number, look, step=run.step)


def _looking(archive: str, run: Run) -> tuple[str, Look]:
    """The name of *archive*, and who knows what is beside it."""
    if "://" not in archive:
        if not archive:
            msg = "ARCHIVE names no file"
            raise ConfigError(msg, hint="an unset variable makes it empty")
        return str(Path(archive).absolute()), _file
    address, mark, query = archive.partition("?")
    folder, _, name = address.rpartition("/")
    if not address.startswith("s3://") or folder == "s3:/" or not is_key(name):
        msg = f"not an archive: {address!r:.300}"
        raise ConfigError(msg, hint=_HINT)
    store = run.paced(open_named(f"{folder}{mark}{query}", run, create=False, needed=True))

    def look(key: str) -> Inlet:
        info = run.retry.call(lambda: store.stat(key), doing=f"looking at {key}")
        return StoredInlet(store, key, info.size)

    return name, look


def _file(name: str) -> Inlet:
    path = Path(name)
    with explaining_failure(path):
        state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        msg = f"{path} is {'a folder' if stat.S_ISDIR(state.st_mode) else 'no file'}, and no archive"
        raise ConfigError(
            msg, hint="an extracted archive is packed again by tar cf; ci-modelcache save stores a folder"
        )
    return FileInlet(path, state.st_size)


def _is_pipe(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # whoever opens it says why
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
