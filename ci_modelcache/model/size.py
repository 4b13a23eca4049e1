"""The only module that reads a size in bytes as people write it: ``500G``, ``1.5TB``, ``1900MiB``."""

from __future__ import annotations

import re
from decimal import Decimal

from ci_modelcache.errors import ConfigError

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([kKMGT])(i?)B?|B)?")
_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(text: str) -> int:
    """
    Bytes in ``500G``, ``500GB``, ``1.5TB``, ``64MiB`` or ``1000000``; raises `ConfigError`, also for less than one.

    k, M, G and T are powers of 1000, as disks are sold and as sizes are shown; Ki, Mi, Gi and Ti of 1024.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        msg = f"not a size: {text!r:.100}"
        raise ConfigError(msg, hint="write bytes as 500G, 1.5TB or 64MiB")
    size = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** _POWERS.get(match[2], 0))
    if size < 1:
        msg = f"a size of {text} is nothing"
        raise ConfigError(msg, hint="write bytes as 500G, 1.5TB or 64MiB")
    return size
