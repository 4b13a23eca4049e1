"""The only module that knows the small mutable documents of format 1: marker, ref, head, intent, condemned list."""

from __future__ import annotations

from attrs import Factory, frozen

from ci_modelcache.errors import StoreUnsupported
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import from_plain, parse_json

FORMAT = 1
HUB = "hub"
SAVED = "saved"


@frozen
class Marker:
    """``modelcache.json``: what kind of store this is, and what its capability probe found (advice, never trusted)."""

    id: str
    format: int = FORMAT
    min_reader: int = FORMAT
    features: tuple[str, ...] = ()
    capabilities: dict[str, str | bool] = Factory(dict)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Marker:
        """Read the marker of the store *where*; raises `StoreUnsupported` for a store of a later format."""
        what = f"the marker {where}"
        plain = parse_json(data, what)
        if isinstance(plain, dict):
            wanted = plain.get("min_reader", plain.get("format"))
            if isinstance(wanted, int) and wanted > FORMAT:
                msg = f"{where} has format {plain.get('format')} and needs a reader of format {wanted}; this version reads {FORMAT}"
                raise StoreUnsupported(msg, hint="upgrade ci-modelcache, or use another store")
        return from_plain(plain, cls, what)


@frozen
class RefRecord:
    """The commit point of a snapshot: names digests only, never keys. *provenance* is for people."""

    manifest: Digest
    write_id: str
    provenance: dict[str, str] = Factory(dict)


@frozen
class HeadRecord:
    """A branch or tag, *revision*: the *commit* that it meant at *observed_at* (epoch seconds, the writer's clock)."""

    revision: str
    commit: str
    observed_at: int
    origin: str
    """`HUB` when an authority said so, `SAVED` when `save` did: the latter does not age."""


@frozen
class IntentRecord:
    """What a writer relies on until its ref is written: digests of blobs, leaf lists and manifests."""

    digests: tuple[Digest, ...]
    write_id: str


@frozen
class CondemnedRecord:
    """An immutable list of the exact keys that a collection is going to delete."""

    keys: tuple[str, ...]
