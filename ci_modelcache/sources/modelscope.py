"""
The only module that knows the file API of ModelScope.

Addresses and fields are those of its own client (`modelscope_hub` 0.5.1, _legacy_api.py): ``/api/v1/models/<repo>/repo/files`` and,
for data sets, ``/api/v1/datasets/<repo>/repo/tree`` list ``Path``, ``Size``, ``Type`` and ``Sha256``; ``.../repo?Revision=&FilePath=``
sends a file. Answers are wrapped in ``Code``, ``Message`` and ``Data``, errors too, and these may come with status 200.

Its commits are not those of the Hub, although many repositories are copies. So its ``master`` is asked, whatever commit is
wanted: that is safe, as nothing is believed but the digest of the bytes; and a file whose listed digest or size is another is
said to be missing before any of it is fetched.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from attrs import define, field, frozen

from ci_modelcache.errors import (
    AccessDenied,
    FileNotFound,
    IntegrityError,
    Misanswer,
    ModelCacheError,
    RateLimited,
    Unavailable,
)
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.model.redact import redact
from ci_modelcache.model.ref import RepoType
from ci_modelcache.sources.bodies import BODIES, Part, check_links, pieces_of
from ci_modelcache.sources.site import Site
from ci_modelcache.sources.tree import parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ci_modelcache.model.listing import ListedFile
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.http import Answer, HttpSession
    from ci_modelcache.sources.token import Token, TokenSource
    from ci_modelcache.transfer.deadline import Deadline

REVISION = "master"
LISTED_SECONDS = 300.0
"""For how long a listing is believed: what is pushed later is found then."""
MOST_LISTED = 3000
"""Entries, files and folders, after which a listing of a model ends without saying so."""
PAGE = 200
MOST_COLLECTED = 100_000
"""Entries of all pages together after which no other is asked for: a server may send pages of any length, for ever."""
MAX_PAGES = 500

_KINDS = {RepoType.MODEL: ("models", "files"), RepoType.DATASET: ("datasets", "tree")}
_MISSING = ("not exist", "not found", "no such", "不存在")
_SENDABLE = re.compile(r"[^\ud800-\udfff]+")
"""JSON can name halves of characters, which no address can hold."""
_MAX_ERROR = 64 * 1024
_MAX_SAID = 200
_HINT = "is this the address of ModelScope?"


@frozen
class _Entry:
    path: str
    size: int
    sha256: str
    """In lower case; empty where it was not told."""

    def is_(self, file: ListedFile) -> bool:
        """Whether it may have the bytes of *file*: nothing that is known of both differs."""
        return self.size == file.size and (not self.sha256 or file.sha256 is None or self.sha256 == file.sha256.hex)


@frozen
class _Listing:
    files: tuple[_Entry, ...]
    cut: bool = False
    """Whether there may be more."""

    def find(self, file: ListedFile) -> _Entry | None:
        """The entry at the path of *file* if it may be it, else any with the same digest: copies are often sorted otherwise."""
        good = [entry for entry in self.files if entry.is_(file)]
        same = next((entry for entry in good if entry.path == file.path), None)
        return same or next((entry for entry in good if file.sha256 and entry.sha256 == file.sha256.hex), None)


@define(eq=False)
class _Asked:
    """One question for a listing: when it was asked, and what came of it once it is *done*."""

    since: float
    outcome: _Listing | ModelCacheError
    done: threading.Event = field(factory=threading.Event)


class ModelScope:
    """
    The models and data sets of ModelScope at *url* (``https://www.modelscope.cn``), as a `sources.protocol.ByteSource`.

    Any file of a repository of the same name is taken that has the wanted digest, or, where none is known, path and size.
    *strict_ranges* is for who has other sources (`sources.bodies.pieces_of`); *clock* is monotonic.
    """

    def __init__(
        self,
        url: str,
        *,
        session: HttpSession,
        deadline: Deadline,
        token: Token | TokenSource | None = None,
        strict_ranges: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = Site.of(url, kind="modelscope", session=session, deadline=deadline, token=token)
        self.strict_ranges = strict_ranges
        self.sends_ranges: bool | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[tuple[RepoType, str, str | None], _Asked] = {}

    @property
    def url(self) -> str:
        return self._site.url

    @contextmanager
    def open(
        self, ref: ModelRef, commit: str, file: ListedFile, *, start: int = 0, stop: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        what = f"{file.path} of {ref.at(commit)}"
        part = Part(file, f"reading {what} from {self.url}", start, stop)
        if part.empty:
            yield iter(())
            return
        if ref.type not in _KINDS:
            msg = f"{self.url} has no {ref.type}s: {what}"
            raise FileNotFound(msg)
        entry = self._find(ref, file, what)
        query = {"Revision": REVISION, "FilePath": entry.path}
        address = f"{_address(ref)}?{urlencode(query)}"
        with self._site.ask(address, doing=part.doing, headers=part.headers) as answer:
            self._check(answer, what, part)
            # What git or the Hub call the content is nothing that ModelScope tells, but its storage names the digest.
            check_links(answer.hops, part, commit=None)
            yield pieces_of(answer, part, self, deadline=self._site.deadline)

    # --- finding a file

    def _find(self, ref: ModelRef, file: ListedFile, what: str) -> _Entry:
        """The entry of master to read for *file*; raises `FileNotFound` when there is none with these bytes."""
        listing = self._listing(ref, None)
        found = listing.find(file)
        if found is None and listing.cut:
            listing = self._listing(ref, file.path.rpartition("/")[0])
            found = listing.find(file)
        if found is not None:
            return found
        other = next((entry for entry in listing.files if entry.path == file.path), None)
        if other is None:
            msg = f"{self.url} has no such file: {what}"
            raise FileNotFound(msg)
        wanted = f"{file.size} bytes" + ("" if file.sha256 is None else f" with digest {file.sha256}")
        has = f"{other.size} bytes" + (f" with digest {other.sha256}" if other.sha256 else "")
        msg = f"{self.url} has another {what}: expected {wanted}, its {REVISION} has {has}"
        raise FileNotFound(msg)

    def _listing(self, ref: ModelRef, folder: str | None) -> _Listing:
        """The files right in *folder*, or all (None), as listed within `LISTED_SECONDS`; threads that ask the same share one answer."""
        key = (ref.type, ref.repo, folder)
        with self._lock:
            asked = self._asked.get(key)
            mine = asked is None or (asked.done.is_set() and self._clock() - asked.since >= LISTED_SECONDS)
            if asked is None or mine:
                interrupted = Unavailable(f"listing {ref.repo} on {self.url} was interrupted")
                asked = self._asked[key] = _Asked(self._clock(), interrupted)
        if mine:
            try:
                asked.outcome = self._list(ref, folder)
            except ModelCacheError as error:
                asked.outcome = error
            finally:
                # Before the others go on: whoever asks again is to get another answer than this failure.
                if not isinstance(asked.outcome, _Listing):
                    with self._lock:
                        del self._asked[key]
                asked.done.set()
        asked.done.wait()
        if isinstance(asked.outcome, _Listing):
            return asked.outcome
        raise asked.outcome

    def _list(self, ref: ModelRef, folder: str | None) -> _Listing:
        recursive = {"Recursive": str(folder is None), **({"Root": folder} if folder else {})}
        if ref.type is RepoType.MODEL:
            page = self._page(ref, recursive)
            return _Listing(_files(page), cut=len(page) >= MOST_LISTED)
        entries: list[object] = []
        for number in range(1, MAX_PAGES + 1):
            page = self._page(ref, {**recursive, "PageNumber": str(number), "PageSize": str(PAGE)})
            entries += page
            if len(page) < PAGE:
                break
            if len(entries) >= MOST_COLLECTED:
                return _Listing(_files(entries), cut=True)
        return _Listing(_files(entries))

    def _page(self, ref: ModelRef, query: dict[str, str]) -> list[object]:
        """The entries of one answer: files, folders, and what cannot be read."""
        doing = f"listing {ref.repo} on {self.url}"
        address = f"{_address(ref)}/{_KINDS[ref.type][1]}?{urlencode({'Revision': REVISION, **query})}"
        with self._site.ask(address, doing=doing) as answer:
            if answer.status != 200:  # noqa: PLR2004  # HTTP's own number
                raise self._site.refusal(answer, ref.repo)
            plain = self._document(answer, MAX_DOCUMENT, ref.repo, doing)
        data = plain.get("Data") if isinstance(plain, dict) else None
        files = data.get("Files") if isinstance(data, dict) else None
        if not isinstance(files, list):
            msg = f"{doing}: expected a list of files, got {type(files).__name__}"
            raise Misanswer(msg, about="page", hint=_HINT)
        return files

    # --- errors

    def _check(self, answer: Answer, what: str, part: Part) -> None:
        """Raise what *answer* says instead of sending *part*: with its status, or in a document with status 200."""
        if answer.status not in BODIES:
            raise self._site.refusal(answer, what)
        is_json = "json" in answer.headers.get("Content-Type", "").lower()
        length = answer.headers.get("Content-Length")
        right = length == str(part.file.size) or (length is None and part.file.path.endswith(".json"))
        if answer.status != 200 or not is_json or right or "Content-Range" in answer.headers:  # noqa: PLR2004  # as above
            return
        self._document(answer, _MAX_ERROR, what, part.doing)
        msg = f"{part.doing}: expected a file of {part.file.size} bytes, got a document of {length or 'unknown length'}"
        raise Misanswer(msg, about="page")

    def _document(self, answer: Answer, limit: int, what: str, doing: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
        """The JSON of *answer*; raises the error that it says, if it does."""
        try:
            plain = parse_answer(
                answer.read(limit + 1), doing=doing, content_type=answer.headers.get("Content-Type", "")
            )
        except IntegrityError as error:
            raise Misanswer(error.message, about="page", hint=_HINT) from error
        if isinstance(plain, dict) and (plain.get("Code", 200) not in (200, "200") or plain.get("Success") is False):
            secrets = () if answer.token is None else (answer.token.secret,)
            said = " ".join(redact(str(plain.get("Message") or "no reason given"), secrets=secrets).split())
            raise _said(self.url, plain.get("Code"), what, said[:_MAX_SAID])
        return plain


def _said(where: str, code: object, what: str, said: str) -> ModelCacheError:
    """By code where that is one of HTTP; its own are many and nowhere listed, so the words decide between no and not now."""
    msg = f"{where} answered code {code!s:.20} for {what}: {said}"
    if code in (401, 403):
        return AccessDenied(msg, hint=f"check the token that is configured for {where}")
    if code == 429:  # noqa: PLR2004  # HTTP's own number
        return RateLimited(msg)
    if code in (404, 410) or any(word in said.lower() for word in _MISSING):
        return FileNotFound(msg)
    return Unavailable(msg)


def _address(ref: ModelRef) -> str:
    return f"api/v1/{_KINDS[ref.type][0]}/{ref.repo}/repo"


def _files(entries: list[object]) -> tuple[_Entry, ...]:
    """What cannot be read is left out: it will not be found, which costs nothing but another source."""
    files = (entry for entry in entries if isinstance(entry, dict) and entry.get("Type", "blob") == "blob")
    found = ((entry.get("Path"), entry.get("Size"), entry.get("Sha256") or "") for entry in files)
    return tuple(
        _Entry(path, size, sha256.lower())
        for path, size, sha256 in found
        if isinstance(path, str) and _SENDABLE.fullmatch(path) and type(size) is int and isinstance(sha256, str)
    )
