"""The only module that knows how a CI system tells who a job is: the ID tokens (OpenID Connect) of GitHub and GitLab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from attrs import field, frozen

from ci_modelcache.errors import AccessDenied, ConfigError
from ci_modelcache.sources.http import Credential, HttpSession
from ci_modelcache.sources.token import StaticToken
from ci_modelcache.sources.tokens.endpoint import ask_for_token, checked_address
from ci_modelcache.sources.tokens.issued import Issued, end_of, token_of

if TYPE_CHECKING:
    from ci_modelcache.transfer.deadline import Deadline

URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105  # the name of a variable


@frozen
class GitHub:
    """
    The ID token of this GitHub job, for *audience* (`Provider`).

    The runner gives an address and a token for it in two variables, to jobs with ``permissions: id-token: write``
    (GitHub Docs, "OpenID Connect reference", methods for requesting the token).
    """

    audience: str | None
    environ: Mapping[str, str] = field(repr=False)
    session: HttpSession = field(repr=False)

    @property
    def name(self) -> str:
        return "oidc:github" + ("" if self.audience is None else f"?audience={self.audience}")

    def identity(self) -> str:
        # Another one in each job, so that no job gets the token of another.
        return self._variable(TOKEN)

    def issue(self, *, deadline: Deadline) -> Issued:
        url = self._variable(URL)
        origin = checked_address(url)
        secret = token_of(self._variable(TOKEN), name=f"variable {TOKEN}", hint="the runner sets it: leave it alone")
        if self.audience is not None:
            url += f"{'&' if '?' in url else '?'}audience={quote(self.audience, safe='')}"
        return ask_for_token(
            url,
            session=self.session,
            doing=f"asking {origin} for the ID token of this job",
            deadline=deadline,
            credential=Credential(StaticToken(secret), origin),
        )

    def _variable(self, name: str) -> str:
        value = self.environ.get(name, "")
        if not value:
            msg = f"{self.name}: the variable {name} is not set"
            raise ConfigError(msg, hint='give the job "permissions: id-token: write"; jobs of forks never get it')
        return value


@frozen
class GitLab:
    """The ID token that GitLab puts into the *variable*, as ``id_tokens:`` of the job names it (`Provider`)."""

    variable: str
    environ: Mapping[str, str] = field(repr=False)
    session: HttpSession = field(repr=False)

    @property
    def name(self) -> str:
        return f"oidc:gitlab?variable={self.variable}"

    def identity(self) -> str:
        return self._value()

    def issue(self, *, deadline: Deadline) -> Issued:
        del deadline
        token = token_of(self._value(), name=self.name, hint="GitLab sets it: leave it alone")
        now, until = self.session.now(), end_of(token.secret)
        if until is not None and until <= now:
            msg = f"{self.name}: the ID token of this job ended {now - until:.0f} s ago"
            raise AccessDenied(msg, hint="GitLab gives it the timeout of the job, 5 minutes without one: set timeout:")
        return Issued(token, now, until)

    def _value(self) -> str:
        value = self.environ.get(self.variable, "")
        if not value:
            msg = f"{self.name}: the variable {self.variable} is not set"
            raise ConfigError(msg, hint=f'name it in the job: "id_tokens: {{{self.variable}: {{aud: ...}}}}"')
        return value
