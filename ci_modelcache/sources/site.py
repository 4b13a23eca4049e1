"""The only module that knows what is common to all mirrors that are web servers but no Hubs: where they are, who asks, and what a no means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import AccessDenied, FileNotFound, ModelCacheError
from ci_modelcache.sources.address import parse_address
from ci_modelcache.sources.answers import Asking, refusal
from ci_modelcache.sources.http import Answer, Credential, HttpSession
from ci_modelcache.sources.token import StaticToken, Token
from ci_modelcache.transfer.deadline import Deadline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from ci_modelcache.sources.token import TokenSource


@frozen
class Site:
    """A web server that is no Hub: what every question to it has in common. A token goes to its origin only."""

    url: str
    """As its user writes it, for messages."""
    base: str
    """As it is asked."""
    session: HttpSession
    deadline: Deadline
    credential: Credential | None

    @classmethod
    def of(
        cls, url: str, *, kind: str, session: HttpSession, deadline: Deadline, token: Token | TokenSource | None
    ) -> Site:
        """The one at *url*; *kind* is what its user writes before that (``files``)."""
        example = f"{kind}+https://mirror.example/models"
        origin, base = parse_address(url, of="a mirror", example=example, instead="a provider of its token")
        source = StaticToken(token) if isinstance(token, Token) else token
        credential = None if source is None else Credential(source, origin)
        return cls(f"{kind}+{base}", base, session, deadline, credential)

    def ask(self, path: str, *, doing: str, headers: Mapping[str, str] | None = None) -> AbstractContextManager[Answer]:
        """GET *path* below its address, as `HttpSession.ask` does."""
        return self.session.ask(
            f"{self.base}/{path}", doing=doing, deadline=self.deadline, credential=self.credential, headers=headers
        )

    def refusal(self, answer: Answer, what: str) -> ModelCacheError:
        """The error to raise for *answer*, which is none of `BODIES`, about the file *what*."""
        asking = Asking(self.url, what, self.base, token=answer.token, missing=FileNotFound)
        error = refusal(answer, asking, now=self.session.now())
        # The hints are for users of a Hub, and about HF_TOKEN, which is not sent here.
        error.hint = None
        if isinstance(error, AccessDenied):
            error.hint = f"check the token that is configured for {self.url}"
        return error
