"""The only module that holds an access token, whatever shows it shows ``***``, and says where the next one comes from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import HIDDEN

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline

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


class TokenSource(Protocol):
    """Where the tokens for one origin come from; any thread may ask, and asking again is cheap."""

    def token(self, *, deadline: Deadline) -> Token:
        """
        A token that is good now.

        Raises `ConfigError` for a provider that is set up wrongly, `AccessDenied` for one that refuses, `Unavailable` for
        one that cannot be reached and is worth another try, `DeadlineExceeded`.
        """

    def forget(self, token: Token) -> bool:
        """*token* was refused (401): never give it again. True when the next one may be another one, so that it is worth a try."""


@frozen
class StaticToken:
    """The one token that there is (`TokenSource`)."""

    _token: Token

    def token(self, *, deadline: Deadline) -> Token:
        del deadline
        return self._token

    def forget(self, token: Token) -> bool:
        del token
        return False
