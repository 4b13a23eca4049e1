"""The only module that writes reports: events become lines of a file that several threads and processes append to."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import threading
import time
from typing import TYPE_CHECKING, Self

from ci_modelcache.transfer.report import FORMAT, HEAD, RunStarted, is_begun, to_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ci_modelcache.transfer.events import Event

_log = logging.getLogger(__name__)


class Recorder:
    """
    `Events` that are written to *path*, each at once: the report of a killed job lacks nothing that happened before.

    The file and its folders are made when they are missing, and appended to when they are not. *redact* takes the secrets
    out of a text. Nothing here fails a step: what cannot be written is lost, which is logged once, as a warning.
    """

    def __init__(
        self,
        path: Path,
        *,
        version: str,
        command: str,
        redact: Callable[[str], str],
        clock: Callable[[], float] = time.time,
        run: str | None = None,
    ) -> None:
        self.path = path
        self._redact = redact
        self._clock = clock
        self._run = secrets.token_hex(4) if run is None else run
        self._lock = threading.Lock()
        self._warned = False
        self._torn = False
        self._file = self._open()
        self._write(RunStarted(FORMAT, version, command))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def record(self, event: Event, /) -> None:
        """Append the line of *event*; never raises for what a disk or an event can have wrong."""
        self._write(event)

    def close(self) -> None:
        """Write no more; what is recorded later is dropped."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)

    def _open(self) -> int | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Also for reading: the last byte tells whether somebody was killed, or had a full disk, in the middle of a line.
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._warn(f"{error.strerror}: {error.filename}")
            return None
        known = os.fstat(file)
        if stat.S_ISREG(known.st_mode) and known.st_size:
            # A file of a repository may say where a report goes, and a server what is written into it.
            if not is_begun(os.pread(file, HEAD, 0)):
                self._warn("it holds something else than a report")
                os.close(file)
                return None
            self._torn = os.pread(file, 1, known.st_size - 1) not in {b"\n", b""}
        return file

    def _write(self, event: Event | RunStarted) -> None:
        try:
            line = to_line(event, at=self._clock(), run=self._run, redact=self._redact)
        except (TypeError, ValueError) as error:
            self._warn(str(error))
            return
        with self._lock:
            if self._file is None:
                return
            try:
                self._append(self._file, line)
            except OSError as error:
                self._warn(error.strerror or str(error))

    def _append(self, file: int, line: bytes) -> None:
        if os.fstat(file).st_nlink == 0:
            self._warn("it was removed while it was being written")
            return
        data = b"\n" + line if self._torn else line
        # One call: the kernel appends it in one piece, so that the lines of other processes stay whole. What is missing
        # after a short write must not be written later, for it would land behind somebody else's line.
        written = os.write(file, data)
        self._torn = written < len(data) if written else self._torn
        if written < len(data):
            self._warn("the disk took only a part of a line")

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the report %s is incomplete: %s", self.path, why)
