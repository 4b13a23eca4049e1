"""
The only module that builds and reads keys of format 1 (docs/format.md).

A key uses ``[A-Za-z0-9._/-]`` alone: stores behind S3 gateways and plain file systems forbid the rest. No key is a
folder of another, for a file system could not hold both.
"""

from __future__ import annotations

import hashlib
import re
import string
from typing import TYPE_CHECKING

from ci_modelcache.errors import InvalidRef, ManifestInvalid
from ci_modelcache.model.digest import is_git_oid
from ci_modelcache.model.ref import ModelRef, RepoType, SnapshotId

if TYPE_CHECKING:
    from ci_modelcache.model.digest import Digest

MARKER = "modelcache.json"
BLOBS = "blobs/sha256/"
LEAVES = "leaves/sha256/"
MANIFESTS = "manifests/sha256/"
COLLECTED = (BLOBS, LEAVES, MANIFESTS)
"""Prefixes of all that a collection deletes when nobody names it; see `collectable`."""
REFS = "refs/v1/"
HEADS = "heads/v1/"
ANSWERS = "answers/v1/"
LEASES = "leases/v1/"
INTENTS = "intents/"
PINS = "pins/v1/"
TRASH = "trash/v1/"
ACCESS = "access/v1/"
COLLECTIONS = "gc/"
CONDEMNED = "/condemned.json"
"""How the key of a condemned list ends; it lies below `COLLECTIONS`."""
CLOSED = "/closed.json"
"""How the key ends that says what became of the condemned list beside it."""
DOOMED = "/doomed"
"""What stands before `CONDEMNED` in the key of a list of what its collection deletes itself."""
PROBES = "probe/"
ROOTS = ("refs/", "pins/", "trash/")
"""Prefixes of all that names snapshots which stay, in this version or a later one."""
SCRUBBED = "scrub/v1/cursor.json"

_PLAIN = frozenset(string.ascii_letters + string.digits + ".-")
_NO_ORG = "-"  # repository names never begin with a dash, so this is nobody's organisation
_MAX_ENCODED = 120
"""The key of an answer has four encoded segments and 27 other bytes: 507 of the 512 that a store takes."""
_HASHED = "_h"  # no escape begins so: their digits are upper-case hex
_ESCAPE = re.compile(r"_([0-9A-F]{2})")
_SELECTION = re.compile(r"all|[0-9a-f]{16}")
_HEX = re.compile(r"[0-9a-f]{64}")
_GENERATION = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_PACKED = re.compile(r"\.bgz1-([1-9][0-9]{0,17})(?:\.g[0-9A-HJKMNP-TV-Z]{26})?")


def encode(text: str) -> str:
    """
    *text*, which is not empty, as one key segment that is never ``.`` or ``..``.

    Bytes outside ``[A-Za-z0-9.-]``, and a leading dot, become ``_`` and two upper-case hex digits. A text too
    long for a key becomes ``_h`` and its SHA-256; `decode` cannot read that back.
    """
    escaped = "".join(c if c in _PLAIN else "".join(f"_{b:02X}" for b in c.encode()) for c in text)
    encoded = f"_2E{escaped[1:]}" if escaped.startswith(".") else escaped
    if len(encoded) > _MAX_ENCODED:
        return f"{_HASHED}{hashlib.sha256(text.encode()).hexdigest()}"
    return encoded


def decode(segment: str) -> str:
    """The text behind a key segment; raises `ManifestInvalid` for one that `encode` never makes, or has hashed."""
    try:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), segment).encode("latin-1").decode()
    except UnicodeError as error:
        msg = f"not an encoded key segment: {segment!r:.200}"
        raise ManifestInvalid(msg) from error
    if not segment or encode(text) != segment:
        msg = f"not an encoded key segment: {segment!r:.200}"
        raise ManifestInvalid(msg)
    return text


def is_hashed(key: str) -> bool:
    """Whether *key* has a segment that `decode` cannot read because its text was too long."""
    return f"/{_HASHED}" in key


def blob(digest: Digest) -> str:
    """The canonical key of a blob."""
    return f"{BLOBS}{digest.hex[:2]}/{digest.hex[2:4]}/{digest.hex}"


def generation(canonical: str, ulid: str) -> str:
    """The key of a later copy of *canonical*, whose own name is condemned."""
    return f"{generations(canonical)}{ulid}"


def generations(canonical: str) -> str:
    """The prefix under which all generations of *canonical* lie, and perhaps other things: see `is_generation`."""
    return f"{canonical}.g"


def is_generation(key: str, canonical: str) -> bool:
    """Whether *key* is a later copy of *canonical*, not an encoding of it whose name happens to begin with a g."""
    return _GENERATION.fullmatch(key.removeprefix(generations(canonical))) is not None


def copies(canonical: str) -> str:
    """The prefix under which all copies of *canonical* lie but itself."""
    return f"{canonical}."


def packed(digest: Digest, size: int) -> str:
    """The key of a blob of *size* bytes in the encoding bytegroup-zstd (docs/encoding.md); the size is in it, so that a listing tells it."""
    return f"{blob(digest)}.bgz1-{size}"


def packed_size(key: str, canonical: str) -> int:
    """How many bytes the blob *canonical* has that *key* holds in the encoding bytegroup-zstd; 0 for a key that is none of such a copy."""
    found = _PACKED.fullmatch(key.removeprefix(canonical)) if canonical.startswith(BLOBS) else None
    return 0 if found is None else int(found[1])


def leaves(digest: Digest) -> str:
    """The key of a leaf list, by its own digest."""
    return f"{LEAVES}{digest.hex[:2]}/{digest.hex}"


def manifest(digest: Digest) -> str:
    """The key of a manifest."""
    return f"{MANIFESTS}{digest.hex[:2]}/{digest.hex}"


def repository(host: str, type: RepoType, repo: str) -> str:  # the Hub's own word
    """The part of a key that names a repository: ``<host>/<type>/<org>/<name>/``."""
    org, _, name = repo.rpartition("/")
    return f"{encode(host)}/{type.value}/{encode(org) if org else _NO_ORG}/{encode(name)}/"


def ref(snapshot: SnapshotId) -> str:
    """The key of a snapshot's ref, the last object that a commit writes."""
    base = repository(snapshot.host, snapshot.type, snapshot.repo)
    return f"{REFS}{base}{snapshot.commit}/{snapshot.selection}.json"


def lease(snapshot: SnapshotId) -> str:
    """The key under which the one who fetches a snapshot says so."""
    return f"{LEASES}{ref(snapshot).removeprefix(REFS)}"


def pin(snapshot: SnapshotId) -> str:
    """The key that says that a snapshot is to stay."""
    return f"{PINS}{ref(snapshot).removeprefix(REFS)}"


def trash(snapshot: SnapshotId) -> str:
    """The key under which the ref of a dropped snapshot lies until it is forgotten."""
    return f"{TRASH}{ref(snapshot).removeprefix(REFS)}"


def accesses(snapshot: SnapshotId) -> str:
    """The prefix of all that says on which days a snapshot was restored."""
    return f"{ACCESS}{ref(snapshot).removeprefix(REFS).removesuffix('.json')}/"


def access(snapshot: SnapshotId, day: str) -> str:
    """The key that says that a snapshot was restored on *day*, ``YYYY-MM-DD`` of UTC."""
    return f"{accesses(snapshot)}{day}"


def condemned(run: str) -> str:
    """The key of what a collection, whose name *run* is a ULID, announces for a later one to delete."""
    return f"{COLLECTIONS}{run}{CONDEMNED}"


def doomed(run: str) -> str:
    """The key of the condemned list of what a collection deletes itself."""
    return f"{COLLECTIONS}{run}{DOOMED}{CONDEMNED}"


def is_doomed(list_key: str) -> bool:
    """Whether the condemned list *list_key* is of what its collection deletes itself."""
    return list_key.endswith(f"{DOOMED}{CONDEMNED}")


def closed(list_key: str) -> str:
    """The key that says what became of the condemned list *list_key*."""
    return f"{list_key.removesuffix(CONDEMNED)}{CLOSED}"


def list_of(closed_key: str) -> str:
    """The key of the condemned list that *closed_key* tells of."""
    return f"{closed_key.removesuffix(CLOSED)}{CONDEMNED}"


def collectable(key: str) -> str:
    """The digest, in hex, of what *key* is a copy or an encoding of; empty for what is no blob, leaf list or manifest."""
    stem = key.partition(".")[0]
    digest = stem.rpartition("/")[2]
    if _HEX.fullmatch(digest) is None:
        return ""
    pair = digest[:2]
    places = {f"{BLOBS}{pair}/{digest[2:4]}/", f"{LEAVES}{pair}/", f"{MANIFESTS}{pair}/"}
    return digest if stem.removesuffix(digest) in places else ""


def head(host: str, type: RepoType, repo: str, revision: str) -> str:  # as above
    """The key that says which commit a branch or tag meant when somebody looked."""
    return f"{HEADS}{repository(host, type, repo)}{encode(revision)}.json"


def answer(host: str, type: RepoType, repo: str, revision: str) -> str:  # as above
    """The key that says by what the authority's answer about a branch or tag is recognised."""
    return f"{ANSWERS}{repository(host, type, repo)}{encode(revision)}.json"


def snapshot_of(ref_key: str) -> SnapshotId:
    """The snapshot that *ref_key* is the ref of; raises `ManifestInvalid` for a key that `ref` never makes, or has hashed."""
    try:
        host, kind, org, name, commit, file = ref_key.removeprefix(REFS).split("/")
        repo = decode(name) if org == _NO_ORG else f"{decode(org)}/{decode(name)}"
        ModelRef(repo)
        found = SnapshotId(decode(host), RepoType(kind), repo, commit, file.removesuffix(".json"))
    except (ValueError, InvalidRef) as error:
        msg = f"not the key of a ref: {ref_key!r:.600}"
        raise ManifestInvalid(msg) from error
    # Whatever else stands below refs/ must not be taken for a snapshot: its name goes into further keys and messages.
    if not is_git_oid(commit) or _SELECTION.fullmatch(found.selection) is None or ref(found) != ref_key:
        msg = f"not the key of a ref: {ref_key!r:.600}"
        raise ManifestInvalid(msg)
    return found


def intent(ulid: str, number: int) -> str:
    """The key of a writer's intent *number*; it is written once and never again."""
    return f"{intents(ulid)}{number}.json"


def intents(ulid: str) -> str:
    """The prefix of all intents of one writer, and of no other's."""
    return f"{INTENTS}{ulid}."
