"""The only module that imports zstd, which came with Python 3.14 and is a package before."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backports.zstd import ZstdCompressor, ZstdDecompressor

MAGIC = b"\x28\xb5\x2f\xfd"
"""What a frame begins with."""

_WINDOW_LOG = 27
"""128 MiB: what a frame may ask a reader to hold in memory, and the most that ``zstd -d`` takes by itself."""
_LEVEL = 1
"""Weights are hardly smaller at any higher one."""
_THREADS = 2
"""At most; what they make together does not depend on how many there are, only on whether there are any."""


class NotZstd(Exception):
    """Bytes that are no zstd, or were altered; never for a user."""


def compressor(size: int) -> ZstdCompressor:
    """One for a frame of *size* bytes, which says so and carries a checksum. Raises `ConfigError` where there is no zstd."""
    with _explaining_absence():
        if sys.version_info >= (3, 14):
            from compression.zstd import CompressionParameter, ZstdCompressor  # noqa: PLC0415  # an extra
        else:
            from backports.zstd import CompressionParameter, ZstdCompressor  # noqa: PLC0415  # as above
    options: dict[int, int] = {CompressionParameter.compression_level: _LEVEL, CompressionParameter.checksum_flag: 1}
    # A libzstd that was built without threads refuses to be asked for some.
    if threads := min(_THREADS, CompressionParameter.nb_workers.bounds()[1]):
        options[CompressionParameter.nb_workers] = threads
    made = ZstdCompressor(options=options)
    made.set_pledged_input_size(size)
    return made


def decompressor(window_log: int = _WINDOW_LOG) -> ZstdDecompressor:
    """One for a frame, which refuses one that needs more than 2 ** *window_log* bytes of memory. Raises `ConfigError` where there is no zstd."""
    with _explaining_absence():
        if sys.version_info >= (3, 14):
            from compression.zstd import DecompressionParameter, ZstdDecompressor  # noqa: PLC0415  # an extra
        else:
            from backports.zstd import DecompressionParameter, ZstdDecompressor  # noqa: PLC0415  # as above
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: window_log})


@contextmanager
def explaining_zstd() -> Iterator[None]:
    """Turn what the library says of wrong bytes into `NotZstd`."""
    with _explaining_absence():
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdError  # noqa: PLC0415  # an extra
        else:
            from backports.zstd import ZstdError  # noqa: PLC0415  # as above
    try:
        yield
    except ZstdError as error:
        raise NotZstd(str(error)) from error


@contextmanager
def _explaining_absence() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        msg = "this needs zstd, and there is none for this Python"
        raise ConfigError(
            msg, hint="pip install 'ci-modelcache[zstd]'; or leave it to the program zstd, through a pipe: -o - | zstd"
        ) from error
