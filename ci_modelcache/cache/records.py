"""The only module that knows the small documents of format 1: marker, ref, pin, head, answer, lease, intent, condemned list and what became of it, scrub."""

from __future__ import annotations

from attrs import field, frozen

from ci_modelcache.errors import ManifestInvalid, StoreUnsupported
from ci_modelcache.model.digest import Digest, is_git_oid
from ci_modelcache.model.document import from_plain, parse_json

FORMAT = 1
HUB = "hub"
SAVED = "saved"


@frozen
class Marker:
    """
    ``modelcache.json``: what kind of store this is, and what its capability probe found (advice, never trusted).

    *format* is the version that a writer must know, *min_reader* the one that suffices to read.
    """

    id: str
    capabilities: dict[str, str | bool]
    format: int
    min_reader: int
    features: tuple[str, ...]

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Marker:
        """Read the marker of the store *where*; raises `StoreUnsupported` for a store of a later format."""
        what = f"the marker {where}"
        plain = parse_json(data, what)
        if isinstance(plain, dict):
            wanted = plain.get("min_reader", plain.get("format"))
            if isinstance(wanted, int) and wanted > FORMAT:
                msg = f"{where} has format {plain.get('format')!r:.20} and needs a reader of format {wanted}; this version reads {FORMAT}"
                raise StoreUnsupported(msg, hint="upgrade ci-modelcache, or use another store")
        return from_plain(plain, cls, what)


@frozen
class RefRecord:
    """The commit point of a snapshot: names digests only, never keys. *provenance* is for people."""

    manifest: Digest
    write_id: str
    """The same for all that one writer wrote, and for nobody else: says whose a ref is, and gives each its own ETag."""
    provenance: dict[str, str]


def _is_commit(_instance: object, _attribute: object, value: str) -> None:
    # It becomes part of a key.
    if not is_git_oid(value):
        msg = f"not a commit of 40 hex digits: {value!r:.100}"
        raise ManifestInvalid(msg)


@frozen
class HeadRecord:
    """A branch or tag, *revision*: the *commit* that it meant at *observed_at* (epoch seconds, the writer's clock)."""

    revision: str
    commit: str = field(validator=_is_commit)
    observed_at: int
    origin: str
    """`HUB` when an authority said so, `SAVED` when `save` did: the latter does not age."""


@frozen
class AnswerRecord:
    """
    By what an authority's answer is recognised that came at *observed_at* and said that *revision* means *commit*.

    A document of its own, as readers of format 1 refuse a head with more fields. *etag* and *last_modified* are its headers, or empty.
    """

    revision: str
    commit: str = field(validator=_is_commit)
    etag: str
    last_modified: str
    observed_at: int


@frozen
class LeaseRecord:
    """Somebody fetches a snapshot: *holder* is a random name of that job, and *beat* counts how often it has said so."""

    holder: str
    beat: int


@frozen
class IntentRecord:
    """
    What a writer relies on until its ref is written: digests of blobs, leaf lists and manifests.

    A writer may have several; all of them hold.
    """

    digests: tuple[Digest, ...]
    write_id: str


@frozen
class CondemnedRecord:
    """An immutable list of the exact keys that a collection is going to delete."""

    keys: tuple[str, ...]


@frozen
class ClosedRecord:
    """What became of a condemned list: *deleted* keys are not to be used again, *spared* ones are as if they had never been on it."""

    deleted: tuple[str, ...]
    spared: tuple[str, ...]


@frozen
class PinRecord:
    """Somebody wants the snapshot of *manifest* to stay, since *pinned_at* (epoch seconds), for a *reason* that people read."""

    manifest: Digest
    pinned_at: int
    reason: str


@frozen
class ScrubRecord:
    """How far the reading of samples has come: the next one begins with the first digest of *following* or after it, in round *number*."""

    following: str
    number: int
