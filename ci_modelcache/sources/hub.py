"""The only module that knows the addresses of a Hub: what to ask for a revision, a tree, refs and a file."""

from __future__ import annotations

import re
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from attrs import evolve

from ci_modelcache.errors import (
    ConfigError,
    FileNotFound,
    IntegrityError,
    ModelCacheError,
    NotFound,
    RepositoryNotFound,
    SizeMismatch,
    Unavailable,
)
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.redact import redact
from ci_modelcache.model.ref import RepoType
from ci_modelcache.sources.answers import Asking, refusal
from ci_modelcache.sources.http import Answer, Credential, HttpSession, Origin
from ci_modelcache.sources.protocol import Meaning
from ci_modelcache.sources.token import StaticToken, Token
from ci_modelcache.sources.tree import parse_answer, parse_commit, parse_listing, parse_refs, parse_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import RefName
    from ci_modelcache.sources.token import TokenSource
    from ci_modelcache.transfer.deadline import Deadline
    from ci_modelcache.transfer.retry import RetryPolicy

MAX_PAGES = 2000
"""Pages of a tree that are asked for at most; the Hub puts 1,000 entries on one."""

_KINDS = {RepoType.MODEL: "models", RepoType.DATASET: "datasets", RepoType.SPACE: "spaces"}
_FOLDERS = {RepoType.MODEL: "", RepoType.DATASET: "datasets/", RepoType.SPACE: "spaces/"}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})")
_ENTITY_TAG = re.compile(r'(?:W/)?"[!#-~]{1,200}"')
_SETTLED = 60.0
_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER = 1024


class HubEndpoint:
    """
    A Hub-compatible endpoint, as authority and as source of bytes (`sources.protocol.Upstream`).

    *url* may have a path (a mirror below a prefix). *token*, or what that source gives, is sent to the origin of *url* only, whatever
    redirects and links say. `resolve`, `listing`, `branches` and `tags` retry by *retry*; `open` does not,
    but keeps to its deadline.
    """

    def __init__(
        self, url: str, *, session: HttpSession, token: Token | TokenSource | None = None, retry: RetryPolicy
    ) -> None:
        self._origin = _origin(url)
        self._base = f"{self._origin}{urlsplit(url).path}".rstrip("/")
        self._session = session
        source = StaticToken(token) if isinstance(token, Token) else token
        self._credential = None if source is None else Credential(source, self._origin)
        self._retry = retry

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
        with self._session.ask(
            self._api(ref, "revision", ref.revision),
            doing=doing,
            deadline=deadline,
            credential=self._credential,
            headers=conditions,
        ) as answer:
            if answer.status == 304 and known is not None and conditions:  # noqa: PLR2004  # HTTP's own number
                return known
            commit = parse_commit(self._document(answer, self._asking(ref, str(ref)), doing), doing=doing)
            # What a redirect led to is recognised there, and the next question is asked here.
            return Meaning(commit) if answer.stranger else Meaning(commit, **_validators(answer))

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
        doing = f"reading {what} from {self._base}"
        end = "" if stop is None else stop - 1
        headers = {"Range": f"bytes={start}-{end}"} if start or stop is not None else {}
        with self._session.ask(
            f"{self._base}/{_FOLDERS[ref.type]}{ref.repo}/resolve/{commit}/{quote(file.path)}",
            doing=doing,
            deadline=self._retry.deadline,
            credential=self._credential,
            headers=headers,
        ) as answer:
            if answer.status == 416:  # noqa: PLR2004  # HTTP's own number
                raise _unsatisfied(answer, file, start, doing)
            if answer.status not in {200, 206}:
                raise self._refusal(answer, self._asking(ref, what, missing=FileNotFound))
            yield self._from(start, answer, file, doing)

    def _from(self, start: int, answer: Answer, file: ListedFile, doing: str) -> Iterator[bytes]:
        """The pieces of *answer* from offset *start* of *file*, once its headers agree with what is known."""
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            msg = f"{doing}: expected the bytes as they are, got them encoded as {encoding!r:.40}"
            raise IntegrityError(msg, hint="a proxy or mirror compresses what it must not")
        if answer.status == 206:  # noqa: PLR2004  # HTTP's own number
            _check_range(answer, file, start, doing)
            return answer.pieces()
        _check_length(answer, file, doing)
        # The whole file although a part was asked for: some mirrors know no ranges.
        return _skipping(start, answer.pieces(), self._retry, doing) if start else answer.pieces()

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
        page = f"{self._base}/{_FOLDERS[ref.type]}{ref.repo}"
        return Asking(self._base, what, page, token=None, missing=missing)

    def _refusal(self, answer: Answer, asking: Asking) -> ModelCacheError:
        return refusal(answer, evolve(asking, token=answer.token), now=self._session.now())

    def _json(self, url: str, asking: Asking, doing: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
        return self._page(url, asking, doing)[0]

    def _page(self, url: str, asking: Asking, doing: str) -> tuple[Any, str | None]:
        """One answer as plain JSON, and the URL of the page after it."""
        return self._retry.call(lambda: self._ask_once(url, asking, doing), doing=doing)

    def _ask_once(self, url: str, asking: Asking, doing: str) -> tuple[Any, str | None]:
        with self._session.ask(url, doing=doing, deadline=self._retry.deadline, credential=self._credential) as answer:
            return self._document(answer, asking, doing), answer.next_url

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
    try:
        old = (parsedate_to_datetime(answer.headers.get("Date", "")) - parsedate_to_datetime(modified)).total_seconds()
    except (ValueError, TypeError):  # no date, or one with and one without a zone
        return found
    return {**found, "last_modified": modified} if old >= _SETTLED and modified.endswith(" GMT") else found


def _origin(url: str) -> Origin:
    try:
        parts = urlsplit(url)
        origin = Origin.of(url)
    except ValueError as error:
        msg = f"not the address of a Hub: {redact(url)!r:.200}"
        raise ConfigError(msg, hint="write it as https://huggingface.co") from error
    if parts.username is not None or parts.password is not None:
        msg = f"a user or password in the address of {origin}"
        raise ConfigError(msg, hint="set HF_TOKEN instead: addresses are shown in messages and logs")
    if parts.query or parts.fragment:
        msg = f"the address of a Hub has no query: {redact(urlunsplit(parts))!r:.200}"
        raise ConfigError(msg, hint="write it as https://huggingface.co")
    return origin


def _check_range(answer: Answer, file: ListedFile, start: int, doing: str) -> None:
    """No client of the Hub checks this, and a part from another offset then corrupts a file in silence."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        msg = f"{doing}: asked for bytes from {start}, got a part that does not say which"
        raise IntegrityError(msg)
    if int(found[1]) != start:
        msg = f"{doing}: asked for bytes from {start}, got bytes from {found[1]}"
        raise IntegrityError(msg)
    if found[3] != "*" and int(found[3]) != file.size:
        raise SizeMismatch(doing, expected=file.size, actual=int(found[3]))


def _check_length(answer: Answer, file: ListedFile, doing: str) -> None:
    length = answer.headers.get("Content-Length", "")
    if not re.fullmatch(r"\d{1,19}", length) or int(length) == file.size:
        return
    hint = None
    if "html" in answer.headers.get("Content-Type", ""):
        hint = "a login page, a proxy or another web server answers in place of a Hub"
    elif file.lfs and int(length) <= _MAX_POINTER and answer.read(_MAX_POINTER).startswith(_POINTER):
        hint = "it is a git-lfs pointer in place of the content: this mirror was filled without git-lfs"
    raise SizeMismatch(doing, expected=file.size, actual=int(length), hint=hint)


def _unsatisfied(answer: Answer, file: ListedFile, start: int, doing: str) -> IntegrityError | Unavailable:
    found = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range", ""))
    if found is not None and int(found[1]) != file.size:
        return SizeMismatch(doing, expected=file.size, actual=int(found[1]))
    return Unavailable(f"{doing}: refused to send bytes from {start} of {file.size}")


def _skipping(count: int, pieces: Iterator[bytes], retry: RetryPolicy, doing: str) -> Iterator[bytes]:
    """*pieces* without the first *count* bytes; they cost their time, so the deadline is looked at here."""
    for piece in pieces:
        retry.deadline.check(doing)
        if count < len(piece):
            yield piece[count:]
        count = max(0, count - len(piece))
