"""Somebody without rights: root may read and write everywhere, so that a test of "permission denied" has to lay that down."""

from __future__ import annotations

import ctypes
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSION_3 = 0x20080522
_POWERS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def unprivileged(*folders: Path, mode: int = 0o555) -> Iterator[None]:
    """
    In the block this thread is bound by permission bits and ownership even as root, and *folders* have *mode*.

    Root's power over them is four capabilities (capabilities(7)), taken out of the effective set and put back.
    """
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in folders}
    for folder in folders:
        folder.chmod(mode)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    _must(libc.capget(ctypes.byref(header), data))
    effective = data[0].effective
    data[0].effective = effective & ~_POWERS
    _must(libc.capset(ctypes.byref(header), data))
    try:
        yield
    finally:
        data[0].effective = effective
        _must(libc.capset(ctypes.byref(header), data))
        for folder, before in modes.items():
            folder.chmod(before)


def _must(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
