"""The only module that reads and writes a rate of bytes a second as people do: ``20MB``, ``500kB/s``."""

from __future__ import annotations

import re
from decimal import Decimal

from ci_modelcache.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
_SHOWN = ("GB", "MB", "kB")
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)(?:/s)?")
_DECIMALS = 3
_BITS = re.compile(r"[kKMG]i?b(?:it|ps)?")


def parse_rate(text: str) -> int:
    """
    Bytes a second in ``20MB``, ``500kB/s``, ``1.5GB``, ``64MiB`` or ``1000000``; raises `ConfigError`, also for less than one.

    k, M and G are powers of 1000, Ki, Mi and Gi of 1024. ``Mb`` is refused, for it may mean bits.
    """
    match = _RATE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        bits = match is not None and _BITS.fullmatch(match[2])
        msg = f"not a rate: {text!r:.100}" + (", which may mean bits" if bits else "")
        raise ConfigError(msg, hint="write bytes a second as 20MB, 500kB or 1.5GB")
    rate = int(Decimal(match[1]) * _UNITS[match[2]])
    if rate < 1:
        msg = f"a rate of {text} lets nothing through"
        raise ConfigError(msg, hint="leave it out to have no limit")
    return rate


def format_rate(rate: int) -> str:
    """*rate* bytes a second as `parse_rate` reads it, and exactly: ``20MB/s``, ``1.5GB/s``, ``1234567B/s``."""
    for unit in _SHOWN:
        if rate >= _UNITS[unit] and rate * 10**_DECIMALS % _UNITS[unit] == 0:
            return f"{(Decimal(rate) / _UNITS[unit]).normalize():f}{unit}/s"
    return f"{rate}B/s"
