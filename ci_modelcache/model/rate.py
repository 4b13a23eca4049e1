"""The only module that reads and writes a rate of bytes a second as people do: ``20MB``, ``500kB/s``."""

from __future__ import annotations

import re
from decimal import Decimal

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.size import UNITS, count_bytes

_SHOWN = ("GB", "MB", "kB")
_DECIMALS = 3
_BITS = re.compile(r"[0-9.]+ ?[kKMG]i?b(?:it|ps)?")


def parse_rate(text: str) -> int:
    """
    Bytes a second in ``20MB``, ``500kB/s``, ``1.5GB``, ``64MiB`` or ``1000000``; raises `ConfigError`, also for less than one.

    k, M and G are powers of 1000, Ki, Mi and Gi of 1024. ``Mb`` is refused, for it may mean bits.
    """
    amount = text.removesuffix("/s")
    try:
        rate = count_bytes(amount)
    except ValueError as error:
        msg = f"not a rate: {text!r:.100}" + (", which may mean bits" if _BITS.fullmatch(amount) else "")
        raise ConfigError(msg, hint="write bytes a second as 20MB, 500kB or 1.5GB") from error
    if rate < 1:
        msg = f"a rate of {text} lets nothing through"
        raise ConfigError(msg, hint="leave it out to have no limit")
    return rate


def format_rate(rate: int) -> str:
    """*rate* bytes a second as `parse_rate` reads it, and exactly: ``20MB/s``, ``1.5GB/s``, ``1234567B/s``."""
    for unit in _SHOWN:
        if rate >= UNITS[unit] and rate * 10**_DECIMALS % UNITS[unit] == 0:
            return f"{(Decimal(rate) / UNITS[unit]).normalize():f}{unit}/s"
    return f"{rate}B/s"
