"""The only module that holds an access token; whatever shows it shows ``***``."""

from __future__ import annotations

import re

from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import HIDDEN

_VISIBLE = re.compile(r"[\x21-\x7e]+")


def _stripped(secret: str) -> str:
    return secret.strip()


def _is_sendable(_instance: object, _attribute: object, secret: str) -> None:
    # A line break in it would let it add headers to a request; the message must not repeat the value.
    if _VISIBLE.fullmatch(secret) is None:
        what = "is empty" if not secret else "has a space, a line break or a character outside ASCII"
        msg = f"the access token {what}"
        raise ConfigError(msg, hint="set HF_TOKEN to the token alone, such as hf_ followed by letters and digits")


@frozen
class Token:
    """A bearer token; white space around *secret* is dropped, anything else that no header can hold is a `ConfigError`."""

    secret: str = field(converter=_stripped, validator=_is_sendable, repr=False)

    def __str__(self) -> str:
        return HIDDEN
