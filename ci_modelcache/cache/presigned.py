"""The only module that is a store made of URLs: what `cache.urls` lists can be read, by anybody, and nothing else is there."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urljoin

from ci_modelcache.cache import keys
from ci_modelcache.cache.records import SAVED, HeadRecord
from ci_modelcache.errors import (
    AccessDenied,
    BucketMissing,
    ConfigError,
    ModelCacheError,
    ObjectNotFound,
    RateLimited,
    SizeMismatch,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.model.document import to_json
from ci_modelcache.sources.answers import seconds_to_wait
from ci_modelcache.sources.bodies import Span
from ci_modelcache.sources.origin import Origin
from ci_modelcache.stores.keys import check_key, check_prefix, check_range
from ci_modelcache.stores.protocol import ObjectInfo
from ci_modelcache.transfer.deadline import Deadline, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ci_modelcache.cache.urls import UrlList
    from ci_modelcache.sources.direct import DirectSession
    from ci_modelcache.sources.http import Answer

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,60})\s*</Code>")
_LONGEST_ERROR = 4096
_SHOWN = 3
"""Models that a remedy names."""
_ENDED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_DENIED = {"AccessDenied", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidAccessKeyId"}
_ELSEWHERE = "make the URLs with the --endpoint-url and --region of the bucket, as it is reached from here: they are signed for one host"
_LENGTH = re.compile(r"\d{1,19}", re.ASCII)


class PresignedStore:
    """
    Implements `Store` by the URLs of *listed*, which *session* asks: whatever is not in it is not there, and no request is made for it.

    What a branch means stands in the list. Sizes do too, so that only `read` asks anybody, once for each call. *now* explains refusals: whether
    the URLs have ended is for the server to say. *deadline* bounds each request.
    """

    def __init__(
        self,
        listed: UrlList,
        *,
        session: DirectSession,
        deadline: Deadline | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.url = listed.store
        self._listed = listed
        self._session = session
        self._deadline = deadline or Deadline()
        self._now = now
        self._heads = dict(_heads(listed))
        self._keys = sorted({*self._heads, *listed.objects})

    # --- reading

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        check_range(start, stop)
        size = self.stat(key).size
        end = size if stop is None else min(stop, size)
        if key in self._heads:
            yield iter([self._heads[key][start:end]])
        elif start >= end:
            yield iter(())
        else:
            whole = start == 0 and end == size
            headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
            doing = f"reading {key} ({self.url})"
            url = self._listed.objects[key].url
            with self._session.ask(url, doing=doing, deadline=self._deadline, headers=headers) as answer:
                if answer.status not in {200, 206}:
                    raise self._refusal(answer, key, doing)
                _check(answer, start, size, whole=whole, doing=doing)
                yield answer.pieces()

    def stat(self, key: str) -> ObjectInfo:
        check_key(key)
        if key in self._heads:
            return ObjectInfo(key, len(self._heads[key]), 0.0)
        if key not in self._listed.objects:
            raise ObjectNotFound(key, self.url)
        return ObjectInfo(key, self._listed.objects[key].size, 0.0)

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        return (self.stat(key) for key in self._keys if key.startswith(prefix))

    # --- what cannot be done

    def write(  # the protocol's arguments, not needed to refuse
        self,
        key: str,
        chunks: Iterable[bytes],  # noqa: ARG002  # as above
        *,
        size: int,  # noqa: ARG002  # as above
        create_only: bool = False,  # noqa: ARG002  # as above
        sums: Sequence[bytes] = (),  # noqa: ARG002  # as above
    ) -> NoReturn:
        self._refuse(f"cannot write {check_key(key)}")

    def delete(self, key: str) -> NoReturn:
        self._refuse(f"cannot delete {check_key(key)}")

    def _refuse(self, doing: str) -> NoReturn:
        msg = f"{doing} in {self.url}: URLs of presign only read"
        raise AccessDenied(msg, hint="use --store, with credentials that may write")

    # --- what an answer means

    def _refusal(self, answer: Answer, key: str, doing: str) -> ModelCacheError:
        status = answer.status
        if status == 416:  # noqa: PLR2004  # HTTP's number is its name
            return self._shrunk(answer, key, doing)
        code = _code(answer)
        said = f"{doing}: the server said {status} {code}".rstrip()
        if status in {401, 403} or code in _DENIED | _ENDED:
            return self._denied(said, code)
        if status in {404, 410}:
            return self._absent(key, code)
        if status in {429, 503}:
            wait = seconds_to_wait(answer.headers, now=self._now())
            return RateLimited(said, retry_after=wait, hint="use fewer workers, or try later")
        return _trouble(answer, said)

    def _denied(self, said: str, code: str) -> AccessDenied:
        late = self._now() - self._listed.ends
        names = [model.ref for model in self._listed.models]
        named = " ".join(names) if len(names) <= _SHOWN else ""
        remedy = f"make new URLs: ci-modelcache presign {named}".rstrip()
        if late >= 0:
            ended = self._listed.expires
            return AccessDenied(
                f"{said}; the URLs ended at {ended}, {format_duration(late)} ago by this machine's clock",
                hint=f"{remedy} --expires 2h, or longer",
            )
        if code in _ENDED:
            return AccessDenied(
                f"{said}; the credentials that signed the URLs ended before {self._listed.expires}",
                hint=f"{remedy} with credentials that last longer",
            )
        why = "the credentials that signed them may be gone by now, or may not read this (s3:GetObject)"
        return AccessDenied(
            f"{said}; the URLs are to last until {self._listed.expires}",
            hint=f"{why}, or a clock is wrong, or a proxy changes requests; {remedy}",
        )

    def _absent(self, key: str, code: str) -> ModelCacheError:
        if code == "NoSuchBucket":
            return BucketMissing(f"there is no bucket for {self.url}", hint="it was there when the URLs were made")
        return ObjectNotFound(key, self.url)

    def _shrunk(self, answer: Answer, key: str, doing: str) -> ModelCacheError:
        size = self._listed.objects[key].size
        told = answer.headers.get("Content-Range", "").removeprefix("bytes */")
        if _LENGTH.fullmatch(told) and int(told) != size:
            return SizeMismatch(doing, expected=size, actual=int(told))
        return Unavailable(f"{doing}: refused to send a part of {size} bytes")


def _heads(listed: UrlList) -> Iterator[tuple[str, bytes]]:
    """What the branches and tags of the list mean, as documents that do not age: a branch that moved leads to nothing that is listed."""
    for model in listed.models:
        meant = model.meant
        if not meant.is_pinned:
            key = keys.head(model.host, meant.type, meant.repo, meant.revision)
            yield key, to_json(HeadRecord(meant.revision, model.commit, 0, SAVED))


def _check(answer: Answer, start: int, size: int, *, whole: bool, doing: str) -> None:
    """Raise unless the headers of *answer* fit what was asked for: bytes from *start* of *size*."""
    told = answer.headers.get("Content-Range", "")
    span = Span.parse(told)
    fits = whole if span is None else span.start == start
    if not fits:
        msg = f"{doing}: asked for bytes from {start}, got {told[:100] or 'the whole object'!r}"
        raise StoreUnsupported(msg, hint="the server, or a proxy before it, ignores the Range header")
    length = answer.headers.get("Content-Length", "")
    total = span.total if span is not None else int(length) if _LENGTH.fullmatch(length) else None
    if total not in {None, size}:
        raise SizeMismatch(doing, expected=size, actual=total)


def _trouble(answer: Answer, said: str) -> ModelCacheError:
    status = answer.status
    if status == 408 or status >= 500:  # noqa: PLR2004  # HTTP's numbers are their names
        return Unavailable(said, hint="the store has trouble of its own; try later")
    if status in {301, 302, 303, 307, 308}:
        return ConfigError(f"{said}, a redirect{_whereto(answer)}", hint=_ELSEWHERE)
    if status == 407:  # noqa: PLR2004  # as above
        return AccessDenied(said, hint="a proxy wants a user and a password: put them into HTTPS_PROXY or HTTP_PROXY")
    return StoreUnsupported(said, hint=f"no store answers so to a signed URL; {_ELSEWHERE}")


def _code(answer: Answer) -> str:
    """What S3 calls the error, or nothing. Of its text nothing is repeated, which may echo the request with its signature."""
    try:
        found = _CODE.search(answer.read(_LONGEST_ERROR))
    except Unavailable:
        return ""
    return "" if found is None else found[1].decode("ascii")


def _whereto(answer: Answer) -> str:
    target = answer.headers.get("Location", "")
    try:
        return f" to {Origin.of(urljoin(answer.url, target))}" if target else ""
    except ValueError:
        return ""
