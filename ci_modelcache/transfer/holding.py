"""The only module that decides whose a half-received file is: of processes and threads that want one name, one has it."""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_at(descriptor: int, path: Path) -> bool:
    """Whether *path* still names the file that *descriptor* has open. While that is locked, only its holder changes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def acquired(path: Path) -> tuple[int, Path, bool]:
    """A locked descriptor of *path*, or of a name of our own when somebody else holds that; and whether it may be kept."""
    for candidate, shared in ((path, True), (path.with_name(f"{path.name}-{secrets.token_hex(8)}"), False)):
        while True:
            made = not candidate.exists()
            try:
                descriptor = os.open(candidate, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # whoever has just finished here took the empty folder away
                path.parent.mkdir(parents=True, exist_ok=True)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                break
            except OSError:
                # A disk that knows no locks: nothing tells two processes apart, so nothing is shared there.
                os.close(descriptor)
                if made and shared:
                    candidate.unlink(missing_ok=True)
                if not shared:
                    return os.open(candidate, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), candidate, False
                break
            if is_at(descriptor, candidate):
                return descriptor, candidate, shared
            # Swept or landed between opening and locking. What has landed is final: a byte written there would be wrong for ever.
            os.close(descriptor)
    msg = f"the new name {path} is locked"
    raise AssertionError(msg)
