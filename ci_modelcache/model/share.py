"""The only module that reads a share of a whole as people write it: ``35%``."""

from __future__ import annotations

import re

from ci_modelcache.errors import ConfigError

_WHOLE = 100
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) ?%")


def parse_share(text: str) -> float:
    """The part of 1 in ``35%``; raises `ConfigError`."""
    match = _SHARE.fullmatch(text)
    if match is None or float(match[1]) > _WHOLE:
        msg = f"not a share: {text!r:.100}"
        raise ConfigError(msg, hint="write per cent from 0% to 100%, such as 35%")
    return float(match[1]) / _WHOLE
