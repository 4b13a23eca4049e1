"""The only module that trades one secret for another: an ID token or a key for a token that ends soon."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from attrs import field, frozen

from ci_modelcache.sources.http import Content, Credential, HttpSession
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.token import StaticToken
from ci_modelcache.sources.tokens.endpoint import ask_for_token
from ci_modelcache.sources.tokens.issued import Issued, Provider, claims

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline

_TYPE = "urn:ietf:params:oauth:token-type:"


class Grant(StrEnum):
    """How the trade is made; the *subject* is what is given."""

    EXCHANGE = "token-exchange"
    """OAuth 2.0 Token Exchange (RFC 8693): the subject is `subject_token`."""
    CLIENT = "client-credentials"
    """OAuth 2.0 client credentials (RFC 6749, 4.4): the subject is `client_secret`."""
    BEARER = "bearer"
    """A POST with the subject as bearer token."""
    HUB = "hub"
    """A GET with the subject as bearer token, as the Hub hands out its short-lived ones (``accessToken``, ``exp``)."""


@frozen
class Exchange:
    """A token from the endpoint *url* for what *subject* gives (`Provider`); *parameters* are sent with it."""

    url: str
    origin: Origin
    subject: Provider
    grant: Grant
    parameters: tuple[tuple[str, str], ...]
    as_json: bool
    session: HttpSession = field(repr=False)

    @property
    def name(self) -> str:
        return f"exchange:{self.url} of {self.subject.name}"

    def identity(self) -> str:
        return json.dumps([self.grant, self.parameters, self.as_json, self.subject.identity()])

    def issue(self, *, deadline: Deadline) -> Issued:
        given = self.subject.issue(deadline=deadline).token
        self.session.secrets.add(given.secret)
        in_header = self.grant in {Grant.BEARER, Grant.HUB}
        return ask_for_token(
            self.url,
            session=self.session,
            doing=f"asking {self.url} for a token",
            deadline=deadline,
            credential=Credential(StaticToken(given), self.origin) if in_header else None,
            content=None if self.grant is Grant.HUB else self._content(given.secret),
        )

    def _content(self, secret: str) -> Content:
        fields = {**self._fields(secret), **dict(self.parameters)}
        if self.as_json:
            return Content(json.dumps(fields).encode(), "application/json")
        return Content(urlencode(fields).encode())

    def _fields(self, secret: str) -> dict[str, str]:
        match self.grant:
            case Grant.EXCHANGE:
                kind = "jwt" if claims(secret) else "access_token"
                grant = "urn:ietf:params:oauth:grant-type:token-exchange"
                return {"grant_type": grant, "subject_token": secret, "subject_token_type": _TYPE + kind}
            case Grant.CLIENT:
                return {"grant_type": "client_credentials", "client_secret": secret}
        return {}
