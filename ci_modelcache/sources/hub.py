"""The only module that knows the addresses of a Hub: what to ask for a revision, a tree, refs and a file."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from attrs import evolve, frozen

from ci_modelcache.errors import (
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    NotFound,
    RepositoryNotFound,
)
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.redact import redact
from ci_modelcache.model.ref import RepoType
from ci_modelcache.sources.address import FOLDERS, file_url, parse_address
from ci_modelcache.sources.answers import Asking, date_of, refusal
from ci_modelcache.sources.bodies import BODIES, Part, check_links, pieces_of
from ci_modelcache.sources.detours import Detours
from ci_modelcache.sources.health import cause_of
from ci_modelcache.sources.http import Answer, Credential, HttpSession
from ci_modelcache.sources.origin import Origin
from ci_modelcache.sources.protocol import Meaning
from ci_modelcache.sources.token import StaticToken, Token
from ci_modelcache.sources.tree import parse_answer, parse_commit, parse_date, parse_listing, parse_refs, parse_tree
from ci_modelcache.transfer.events import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import RefName
    from ci_modelcache.sources.token import TokenSource
    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.retry import RetryPolicy

MAX_PAGES = 2000
"""Pages of a tree that are asked for at most; the Hub puts 1,000 entries on one."""

_KINDS = {RepoType.MODEL: "models", RepoType.DATASET: "datasets", RepoType.SPACE: "spaces"}
_PASSING = {408, 425, 429}
_ENTITY_TAG = re.compile(r'(?:W/)?"[!#-~]{1,200}"')
_SETTLED = 60.0


class HubEndpoint:
    """
    A Hub-compatible endpoint, as authority and as source of bytes (`sources.protocol.Upstream`).

    *url* may have a path (a mirror below a prefix). *token*, or what that source gives, is sent to the origin of *url* only, whatever
    redirects and links say. `resolve`, `listing`, `branches` and `tags` retry by *retry*; `open` does not,
    but keeps to its deadline. *strict_ranges* is for who has other sources (`sources.bodies.pieces_of`).
    """

    def __init__(
        self,
        url: str,
        *,
        session: HttpSession,
        token: Token | TokenSource | None = None,
        retry: RetryPolicy,
        strict_ranges: bool = False,
    ) -> None:
        self._origin, self._base = parse_address(url, of="a Hub", example="https://huggingface.co", instead="HF_TOKEN")
        self.strict_ranges = strict_ranges
        self.sends_ranges: bool | None = None
        """Whether it sends parts of large files; None before that was seen."""
        self._session = session
        self._detours = Detours(now=session.now)
        source = StaticToken(token) if isinstance(token, Token) else token
        self._credential = None if source is None else Credential(source, self._origin)
        self._retry = evolve(retry, source=self._base)

    @property
    def url(self) -> str:
        return self._base

    @property
    def host(self) -> str:
        return self._origin.authority

    def resolve(self, ref: ModelRef, *, known: Meaning | None = None, patience: float | None = None) -> Meaning:
        """As the protocol says; a full commit means itself and is not asked for: its listing tells whether it exists."""
        if ref.is_pinned:
            return Meaning(ref.revision)
        doing = f"asking {self._base} for {ref}"
        if patience is None:
            return self._retry.call(lambda: self._meaning(ref, known, self._retry.deadline, doing), doing=doing)
        with self._retry.briefly(seconds=patience, doing=doing) as brief:
            return brief.call(lambda: self._meaning(ref, known, brief.deadline, doing), doing=doing)

    def _meaning(self, ref: ModelRef, known: Meaning | None, deadline: Deadline, doing: str) -> Meaning:
        conditions = {} if known is None else _conditions(known)
        url, credential = self._api(ref, "revision", ref.revision), self._credential
        asked = self._session.ask(url, doing=doing, deadline=deadline, credential=credential, headers=conditions)
        with self._telling(), asked as answer:
            if answer.status == 304 and known is not None and conditions:  # noqa: PLR2004  # HTTP's own number
                return known
            commit = parse_commit(self._document(answer, self._asking(ref, str(ref)), doing), doing=doing)
            # What a redirect led to is recognised there, and the next question is asked here.
            return Meaning(commit) if answer.stranger else Meaning(commit, **_validators(answer))

    def changed(self, ref: ModelRef) -> str | None:
        """When the commit that *ref* means was made, as this endpoint writes it; None when it does not say."""
        plain = self._json(
            self._api(ref, "revision", ref.revision), self._asking(ref, str(ref)), f"asking {self._base} for {ref}"
        )
        return parse_date(plain)

    def listing(self, ref: ModelRef, commit: str) -> Listing:
        what = str(ref.at(commit))
        doing = f"listing {what} on {self._base}"
        asking = self._asking(ref, what)
        tree = self._api(ref, "tree", commit)
        url: str | None = f"{tree}?recursive=true&expand=false"
        files: list[ListedFile] = []
        asked: set[str] = set()
        while url is not None:
            if url in asked or len(asked) >= MAX_PAGES:
                msg = f"{doing}: the pages do not end; the last one asked for was number {len(asked) + 1}"
                raise IntegrityError(msg)
            asked.add(url)
            page, following = self._page(url, asking, doing)
            files += parse_tree(page, doing=doing)
            url = None if following is None else self._own(tree, following, doing)
        return parse_listing(commit, files, doing=doing)

    def branches(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._refs(ref, "branches")

    def tags(self, ref: ModelRef) -> tuple[RefName, ...]:
        return self._refs(ref, "tags")

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        what = f"{file.path} of {ref.at(commit)}"
        part = Part(file, f"reading {what} from {self._base}", start, stop)
        if part.empty:
            yield iter(())
            return
        asking = self._asking(ref, what, missing=FileNotFound)
        url = file_url(self._base, ref.type, ref.repo, commit=commit, path=file.path)
        with ExitStack() as opened:
            try:
                yield self._detoured(url, part, asking, opened) or self._sent(url, part, asking, commit, opened)
            except ModelCacheError:
                # Also what its reader found, such as other bytes than were promised: the Hub may lead elsewhere next time.
                self._detours.forget(url)
                raise

    def _sent(self, url: str, part: Part, asking: Asking, commit: str, opened: ExitStack) -> Iterator[bytes]:
        """The bytes of *part* from this endpoint, or from where it redirects to, which is remembered."""
        answer = opened.enter_context(
            self._session.ask(
                url,
                doing=part.doing,
                deadline=self._retry.deadline,
                credential=self._credential,
                headers=part.headers,
            )
        )
        if answer.status not in BODIES:
            raise self._refusal(answer, asking)
        check_links(answer.hops, part, commit=commit)
        pieces = pieces_of(answer, part, self, deadline=self._retry.deadline)
        if answer.stranger:
            self._detours.learn(url, answer.url)
        return pieces

    def _detoured(self, url: str, part: Part, asking: Asking, opened: ExitStack) -> Iterator[bytes] | None:
        """The bytes of *part* from where *url* redirected to before; None where that is not known, or not good any more."""
        detour = self._detours.find(url)
        if detour is None:
            return None
        with ExitStack() as attempt:
            # No credential: a signed URL needs none, and refuses a request that has one.
            answer = attempt.enter_context(
                self._session.ask(detour, doing=part.doing, deadline=self._retry.deadline, headers=part.headers)
            )
            if answer.status not in BODIES:
                if answer.status in _PASSING or answer.status >= 500:  # noqa: PLR2004  # HTTP's own numbers
                    raise refusal(_Detoured(answer, str(Origin.of(detour))), asking, now=self._session.now())
                self._detours.forget(url)
                return None
            check_links(answer.hops, part, commit=None)
            pieces = pieces_of(answer, part, self, deadline=self._retry.deadline)
            opened.push(attempt.pop_all())
            return pieces

    def _refs(self, ref: ModelRef, member: str) -> tuple[RefName, ...]:
        doing = f"asking {self._base} for the {member} of {ref.repo}"
        plain = self._json(self._api(ref, "refs"), self._asking(ref, ref.repo), doing)
        return parse_refs(plain, member, doing=doing)

    def _api(self, ref: ModelRef, *parts: str) -> str:
        tail = "".join(f"/{quote(part, safe='')}" for part in parts)
        return f"{self._base}/api/{_KINDS[ref.type]}/{ref.repo}{tail}"

    def _asking(self, ref: ModelRef, what: str, missing: type[NotFound] = RepositoryNotFound) -> Asking:
        # A 404 without a code could also mean the revision. The repository is named, as it is more often
        # a wrong address, and either way the answer is a definite no that no retry changes.
        page = f"{self._base}/{FOLDERS[ref.type]}{ref.repo}"
        return Asking(self._base, what, page, token=None, missing=missing)

    def _refusal(self, answer: Answer, asking: Asking) -> ModelCacheError:
        return refusal(answer, evolve(asking, token=answer.token), now=self._session.now())

    def _json(self, url: str, asking: Asking, doing: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
        return self._page(url, asking, doing)[0]

    def _page(self, url: str, asking: Asking, doing: str) -> tuple[Any, str | None]:
        """One answer as plain JSON, and the URL of the page after it."""
        return self._retry.call(lambda: self._ask_once(url, asking, doing), doing=doing)

    def _ask_once(self, url: str, asking: Asking, doing: str) -> tuple[Any, str | None]:
        deadline, credential = self._retry.deadline, self._credential
        with self._telling(), self._session.ask(url, doing=doing, deadline=deadline, credential=credential) as answer:
            return self._document(answer, asking, doing), answer.next_url

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell of one attempt to have metadata, which has no path."""
        began = time.monotonic()
        try:
            yield
        except ModelCacheError as error:
            seconds, cause = time.monotonic() - began, cause_of(error)
            self._retry.events.record(Attempt(self._base, "", seconds=seconds, cause=cause, error=error.message))
            raise
        self._retry.events.record(Attempt(self._base, "", seconds=time.monotonic() - began))

    def _document(self, answer: Answer, asking: Asking, doing: str) -> Any:  # noqa: ANN401  # as above
        if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
            raise self._refusal(answer, asking)
        data = answer.read(MAX_DOCUMENT + 1)
        return parse_answer(data, doing=doing, content_type=answer.headers.get("Content-Type", ""))

    def _own(self, tree: str, following: str, doing: str) -> str:
        """
        The next page on this endpoint.

        A mirror that copies the Hub's ``Link`` points at the Hub: what we are told about trust, and our
        token, stay here, so only the query (the cursor) of such a link is taken.
        """
        parts = urlsplit(following)
        if not parts.query or not parts.path.endswith(urlsplit(tree).path.rpartition("/api/")[2]):
            shown = redact(following, secrets=self._session.secrets)
            msg = f"{doing}: the link to the next page leads elsewhere: {shown!r:.200}"
            raise IntegrityError(msg)
        return f"{tree}?{parts.query}"


def _conditions(known: Meaning) -> dict[str, str]:
    """The headers that let a server say "as before"; the entity tag alone where there is one (RFC 9110, 13.1.3)."""
    if known.etag:
        return {"If-None-Match": known.etag}
    return {"If-Modified-Since": known.last_modified} if known.last_modified else {}


def _validators(answer: Answer) -> dict[str, str]:
    """
    By what *answer* can be recognised; what is too odd to be sent back is left out.

    A date has whole seconds, so that one younger than a minute would also recognise what comes after it (RFC 9110, 8.8.2.2).
    """
    etag, modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    found = {"etag": etag} if _ENTITY_TAG.fullmatch(etag) else {}
    sent, made = date_of(answer.headers.get("Date", "")), date_of(modified)
    if sent is None or made is None or not modified.endswith(" GMT") or (sent - made).total_seconds() < _SETTLED:
        return found
    return {**found, "last_modified": modified}


@frozen
class _Detoured:
    """A `Refused` from where a redirect that is remembered led: what it says is said by a stranger."""

    _answer: Answer
    stranger: str

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    def read(self, limit: int) -> bytes:
        return self._answer.read(limit)
