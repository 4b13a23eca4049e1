"""The only module that reads a number of bytes as people write it: ``500G``, ``1.5TB``, ``1900MiB``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
"""Powers of 1000, as disks are sold and as sizes are shown, and of 1024."""
_SHORT = UNITS | {unit.removesuffix("B"): factor for unit, factor in UNITS.items()}
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_HINT = "write bytes as 500G, 1.5TB or 64MiB"


def count_bytes(text: str, units: Mapping[str, int] = UNITS) -> int:
    """Bytes in *text*, a number and one of *units*, which may be less than one; raises `ValueError`."""
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(text)
    return int(Decimal(match[1]) * units[match[2]])


def parse_size(text: str) -> int:
    """
    Bytes in ``500G``, ``500GB``, ``1.5TB``, ``64MiB`` or ``1000000``; raises `ConfigError`, also for less than one.

    k, M, G and T are powers of 1000; Ki, Mi, Gi and Ti of 1024.
    """
    try:
        size = count_bytes(text, _SHORT)
    except ValueError as error:
        msg = f"not a size: {text!r:.100}"
        raise ConfigError(msg, hint=_HINT) from error
    if size < 1:
        msg = f"a size of {text} is nothing"
        raise ConfigError(msg, hint=_HINT)
    return size
