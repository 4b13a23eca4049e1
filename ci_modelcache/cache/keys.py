"""
The only module that builds and reads keys of format 1 (docs/format.md).

A key uses ``[A-Za-z0-9._/-]`` alone: stores behind S3 gateways and plain file systems forbid the rest.
"""

from __future__ import annotations

import hashlib
import re
import string
from typing import TYPE_CHECKING

from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.ref import RepoType, SnapshotId

if TYPE_CHECKING:
    from ci_modelcache.model.digest import Digest

MARKER = "modelcache.json"
REFS = "refs/v1/"
HEADS = "heads/v1/"
INTENTS = "intents/"
COLLECTIONS = "gc/"

_PLAIN = frozenset(string.ascii_letters + string.digits + ".-")
_NO_ORG = "-"  # repository names never begin with a dash, so this is nobody's organisation
_MAX_ENCODED = 160
_ESCAPE = re.compile(r"_([0-9A-F]{2})")


def encode(text: str) -> str:
    """
    *text* as one key segment: bytes outside ``[A-Za-z0-9.-]`` become ``_`` and two upper-case hex digits.

    A text too long for a key becomes ``_h`` and its SHA-256; `decode` cannot read that back.
    """
    encoded = "".join(c if c in _PLAIN else "".join(f"_{b:02X}" for b in c.encode()) for c in text)
    if len(encoded) > _MAX_ENCODED:
        return f"_h{hashlib.sha256(text.encode()).hexdigest()}"
    return encoded


def decode(segment: str) -> str:
    """The text behind a key segment; raises `ManifestInvalid` for one that `encode` never makes."""
    try:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), segment).encode("latin-1").decode()
    except UnicodeError as error:
        msg = f"not an encoded key segment: {segment!r:.200}"
        raise ManifestInvalid(msg) from error
    if encode(text) != segment:
        msg = f"not an encoded key segment: {segment!r:.200}"
        raise ManifestInvalid(msg)
    return text


def blob(digest: Digest) -> str:
    """The canonical key of a blob."""
    return f"blobs/sha256/{digest.hex[:2]}/{digest.hex[2:4]}/{digest.hex}"


def generation(canonical: str, ulid: str) -> str:
    """The key of a later copy of *canonical*, whose own name is condemned."""
    return f"{canonical}.g{ulid}"


def generations(canonical: str) -> str:
    """The prefix under which all generations of *canonical* lie; encodings (``.e...``) do not."""
    return f"{canonical}.g"


def leaves(digest: Digest) -> str:
    """The key of a leaf list, by its own digest."""
    return f"leaves/sha256/{digest.hex[:2]}/{digest.hex}"


def manifest(digest: Digest) -> str:
    """The key of a manifest."""
    return f"manifests/sha256/{digest.hex[:2]}/{digest.hex}"


def repository(host: str, type: RepoType, repo: str) -> str:  # the Hub's own word
    """The part of a key that names a repository: ``<host>/<type>/<org>/<name>/``."""
    org, _, name = repo.rpartition("/")
    return f"{encode(host)}/{type.value}/{encode(org) if org else _NO_ORG}/{encode(name)}/"


def ref(snapshot: SnapshotId) -> str:
    """The key of a snapshot's ref, the last object that a commit writes."""
    base = repository(snapshot.host, snapshot.type, snapshot.repo)
    return f"{REFS}{base}{snapshot.commit}/{snapshot.selection}.json"


def head(host: str, type: RepoType, repo: str, revision: str) -> str:  # as above
    """The key that says which commit a branch or tag meant when somebody looked."""
    return f"{HEADS}{repository(host, type, repo)}{encode(revision)}.json"


def snapshot_of(ref_key: str) -> SnapshotId:
    """The snapshot that *ref_key* is the ref of; raises `ManifestInvalid` for a key of another shape."""
    parts = ref_key.removeprefix(REFS).removesuffix(".json").split("/")
    try:
        host, kind, org, name, commit, selection = parts
        repo = decode(name) if org == _NO_ORG else f"{decode(org)}/{decode(name)}"
        return SnapshotId(decode(host), RepoType(kind), repo, commit, selection)
    except ValueError as error:
        msg = f"not the key of a ref: {ref_key!r:.300}"
        raise ManifestInvalid(msg) from error


def intent(ulid: str) -> str:
    """The key under which a writer says what it relies on."""
    return f"{INTENTS}{ulid}.json"
