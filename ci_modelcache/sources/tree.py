"""
The only module that reads the JSON of a Hub: nothing that it does not understand is believed.

The shapes are those of `huggingface_hub` 2.4.0, hf_api.py: RepoFile, RepoFolder, GitRefs. What goes into
a `Listing` decides which bytes are right, so a field that is missing or of another type is an
`IntegrityError` and never a default. Unknown fields (xetHash, lastCommit, ...) are of no interest.
"""

from __future__ import annotations

import re
from typing import Any

from ci_modelcache.errors import IntegrityError, ManifestInvalid, UnsafePath
from ci_modelcache.model.digest import Digest, is_git_oid
from ci_modelcache.model.document import parse_json
from ci_modelcache.model.listing import ListedFile, Listing
from ci_modelcache.sources.protocol import RefName

_DATE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]{5,20}(?:Z|[+-]\d\d:?\d\d)", re.ASCII)

MAX_SIZE = 2**53 - 1
"""The largest size in bytes that JSON carries exactly (RFC 8259, 6) and a manifest can hold."""


def parse_answer(data: bytes, *, doing: str, content_type: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
    """*data* as JSON; a web page instead (*content_type* tells) is explained."""
    try:
        return parse_json(data, "the answer")
    except ManifestInvalid as error:
        if "html" in content_type.lower() or data.lstrip()[:1] == b"<":
            msg = f"{doing}: expected JSON, got a web page"
            raise IntegrityError(
                msg, hint="a login page, a proxy or another web server answers in place of a Hub"
            ) from error
        msg = f"{doing}: {error.message}"
        raise IntegrityError(msg, hint="is this the address of a Hub?") from error


def parse_commit(plain: object, *, doing: str) -> str:
    """The commit of a repository info (``{"sha": ...}``)."""
    return _Fields(plain, doing, "$").oid("sha")


def parse_date(plain: object) -> str | None:
    """The ``lastModified`` of a repository info, as it stands there; None for anything but a date, as nothing depends on it."""
    date = plain.get("lastModified") if isinstance(plain, dict) else None
    return date if isinstance(date, str) and _DATE.fullmatch(date) else None


def parse_tree(plain: object, *, doing: str) -> list[ListedFile]:
    """The files of one page of a recursive tree; folders are left out, as files name them."""
    entries = [_Fields(entry, doing, f"$[{index}]") for index, entry in enumerate(_a_list(plain, doing, "$"))]
    return [_file(entry) for entry in entries if not _is_folder(entry)]


def parse_listing(commit: str, files: list[ListedFile], *, doing: str) -> Listing:
    """All pages together; paths that must not meet a disk, or that would meet each other, raise `UnsafePath`."""
    try:
        return Listing(commit, tuple(files))
    except UnsafePath as error:
        msg = f"{doing}: {error.message}"
        raise UnsafePath(msg, hint="such a repository cannot be stored; nothing was written") from error


def parse_refs(plain: object, member: str, *, doing: str) -> tuple[RefName, ...]:
    """The ``branches`` or ``tags`` (*member*) of a refs answer."""
    entries = _a_list(_Fields(plain, doing, "$").get(member), doing, f"$.{member}")
    fields = [_Fields(entry, doing, f"$.{member}[{index}]") for index, entry in enumerate(entries)]
    return tuple(RefName(entry.text("name"), entry.oid("targetCommit")) for entry in fields)


def _is_folder(entry: _Fields) -> bool:
    kind = entry.text("type")
    if kind not in {"file", "directory"}:
        raise entry.wrong("type", "file or directory", kind)
    return kind == "directory"


def _file(entry: _Fields) -> ListedFile:
    size = entry.size("size")
    sha256 = None
    if entry.get("lfs", None) is not None:
        lfs = _Fields(entry.get("lfs"), entry.doing, f"{entry.place}.lfs")
        sha256 = lfs.sha256("oid")
        if lfs.size("size") != size:
            raise lfs.wrong("size", f"{size} as outside of lfs", lfs.size("size"))
    return ListedFile(path=entry.text("path"), size=size, git_oid=entry.oid("oid"), sha256=sha256)


def _a_list(value: object, doing: str, place: str) -> list[object]:
    if not isinstance(value, list):
        msg = f"{doing}: {place}: expected a list, got {type(value).__name__}"
        raise IntegrityError(msg)
    return value


_REQUIRED = object()


class _Fields:
    """One JSON object, read strictly; *place* is its JSON path for messages."""

    def __init__(self, plain: object, doing: str, place: str) -> None:
        self.doing = doing
        self.place = place
        if not isinstance(plain, dict):
            msg = f"{doing}: {place}: expected an object, got {type(plain).__name__}"
            raise IntegrityError(msg)
        self._plain: dict[str, object] = plain

    def wrong(self, name: str, expected: str, actual: object) -> IntegrityError:
        return IntegrityError(f"{self.doing}: {self.place}.{name}: expected {expected}, got {actual!r:.80}")

    def get(self, name: str, default: object = _REQUIRED) -> object:
        value = self._plain.get(name, default)
        if value is _REQUIRED:
            msg = f"{self.doing}: {self.place}.{name} is missing"
            raise IntegrityError(msg)
        return value

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text", value)
        return value

    def size(self, name: str) -> int:
        value = self.get(name)
        if type(value) is not int or not 0 <= value <= MAX_SIZE:
            raise self.wrong(name, "a number of bytes", value)
        return value

    def oid(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not is_git_oid(value):
            raise self.wrong(name, "40 hex digits", value)
        return value

    def sha256(self, name: str) -> Digest:
        value = self.get(name)
        try:
            return Digest(str(value))
        except ManifestInvalid as error:
            raise self.wrong(name, "a SHA-256 in hex", value) from error
