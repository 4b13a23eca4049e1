"""The only module that knows the document of `ci-modelcache presign`: URLs for every object that restoring some models reads (docs/presign.md)."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from attrs import field, frozen

from ci_modelcache.cache import keys
from ci_modelcache.errors import ConfigError, ManifestInvalid, ObjectNotFound, StoreUnsupported
from ci_modelcache.model.digest import is_git_oid
from ci_modelcache.model.document import from_plain, parse_json, to_json
from ci_modelcache.model.redact import redact
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.keys import is_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from attrs import Attribute

    from ci_modelcache.model.digest import Digest

FORMAT = 1
MAX_SIZE = 2**53 - 1
"""Bytes of the largest object: what every reader of JSON can count."""
MAX_URL = 16_384

_REMEDY = "make it anew: ci-modelcache presign"
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")
"""The characters of RFC 3986, without a fragment. No message of this module may show a URL, or what stands in its place."""
_STORE = re.compile(r"[ -?A-~]{1,1024}")
"""Text that may be shown, without an @ before which credentials could stand."""
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def _checked(is_good: Callable[[str], bool], expected: str) -> Callable[[object, Attribute[str], str], None]:
    """A validator that says what was *expected*, and never what was found."""

    def check(_instance: object, attribute: Attribute[str], value: str) -> None:
        if not is_good(value):
            msg = f"{attribute.name}: expected {expected}, got something else"
            raise ManifestInvalid(msg)

    return check


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  # raises for a port that is none
    except ValueError:
        return False
    return (
        len(text) <= MAX_URL and _URL.fullmatch(text) is not None and bool(parts.hostname) and "@" not in parts.netloc
    )


def _is_moment(text: str) -> bool:
    try:
        return _MOMENT.fullmatch(text) is not None and bool(dt.datetime.fromisoformat(text))
    except ValueError:
        return False


def _is_size(_instance: object, attribute: Attribute[int], value: int) -> None:
    if not 0 <= value <= MAX_SIZE:
        msg = f"{attribute.name}: expected 0 to {MAX_SIZE} bytes, got {value}"
        raise ManifestInvalid(msg)


def moment(seconds: float) -> str:
    """*seconds* since the epoch as the document has it: UTC, whole seconds, never later than they are."""
    return dt.datetime.fromtimestamp(int(seconds), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@frozen
class ListedModel:
    """A model that can be restored: what *ref* means is said by *commit*, and not asked of anybody. *host*: the Hub of that name."""

    ref: str
    host: str = field(validator=_checked(lambda text: _HOST.fullmatch(text) is not None, "the name of a Hub"))
    commit: str = field(validator=_checked(is_git_oid, "a commit of 40 hex digits"))
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        try:
            meant, _ = self.meant, self.selection.id
        except ConfigError as error:
            raise ManifestInvalid(error.message) from error
        if meant.is_pinned and meant.revision != self.commit:
            msg = f"{meant} cannot mean the commit {self.commit}"
            raise ManifestInvalid(msg)

    @property
    def meant(self) -> ModelRef:
        """The model as it was asked for."""
        return ModelRef.parse(self.ref)

    @property
    def selection(self) -> Selection:
        """Which files of it."""
        return Selection(self.include, self.exclude)


@frozen
class ObjectUrl:
    """*url* gives the *size* bytes of an object to whoever has it."""

    size: int = field(validator=_is_size)
    url: str = field(repr=False, validator=_checked(_is_url, "an http or https URL"))


@frozen
class UrlList:
    """
    What a restore of *models* reads of *store*: URLs of all its *objects* by key, which end when *expires* says (RFC 3339, UTC).

    Whoever has this document can read these objects until then: it is a secret.
    """

    store: str = field(validator=_checked(lambda text: _STORE.fullmatch(text) is not None, "the address of a store"))
    expires: str = field(validator=_checked(_is_moment, "a time such as 2026-11-21T12:00:00Z"))
    models: tuple[ListedModel, ...]
    objects: dict[str, ObjectUrl]
    format: int = FORMAT

    def __attrs_post_init__(self) -> None:
        if not all(map(is_key, self.objects)):
            msg = "expected keys of a store as names of its objects, got something else"
            raise ManifestInvalid(msg)
        commits = {(model.host, model.meant): model.commit for model in self.models}
        if any(commits[model.host, model.meant] != model.commit for model in self.models):
            msg = "models: one name means two commits"
            raise ManifestInvalid(msg)
        if self.format != FORMAT:
            msg = f"expected format {FORMAT}, got {self.format}"
            raise ManifestInvalid(msg)

    @property
    def ends(self) -> float:
        """When the URLs end, in seconds since the epoch."""
        return dt.datetime.fromisoformat(self.expires).timestamp()

    def of_blob(self, digest: Digest) -> str:
        """The URL of a blob, of whichever copy is listed; raises `ObjectNotFound`."""
        canonical = keys.blob(digest)
        for key, found in self.objects.items():
            if key == canonical or keys.is_generation(key, canonical):
                return found.url
        raise ObjectNotFound(digest.hex, self.store)

    def to_json(self) -> bytes:
        """The document; raises `ManifestInvalid` when there are too many objects for one."""
        return to_json(self) + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Read the document at *where*; raises `ManifestInvalid` with the places of its defects, and `StoreUnsupported` for a later format."""
        what = f"the list of URLs {where}"
        try:
            plain = parse_json(data, what)
            later = plain.get("format") if isinstance(plain, dict) else None
            if isinstance(later, int) and later > FORMAT:
                msg = f"{what} has format {later}; this version reads {FORMAT}"
                raise StoreUnsupported(msg, hint="upgrade ci-modelcache, or make the list by the same version")
            return from_plain(plain, cls, what)
        except ManifestInvalid as error:
            # Names of members are repeated there, and could be anything.
            raise ManifestInvalid(redact(error.message), hint=_REMEDY) from None
