"""The only module that says what was found wrong with a store, in which snapshots, and what became of it when it was to be mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import ModelCacheError, NotDecodable, NotFound, StoreUnsupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.verbs.mend import Mender

MISSING = "missing"
WRONG = "wrong"
UNSUPPORTED = "unsupported"
SPARE = "spare"
"""A wrong copy of which there is a right one, so that nobody is harmed yet."""
DROPPED = "dropped"
"""Something that is missing or wrong in the trash: what lies there cannot be brought back, and nobody reads it."""


@frozen
class Problem:
    """
    Something that is not as promised: *what* is a path, "manifest" or the key of an object, *why* a sentence.

    *kind* is ``missing`` or ``wrong``; ``spare`` for a wrong copy beside a right one, ``dropped`` for what lies in the trash, or
    ``unsupported`` by this version, which may be as it should be.
    """

    snapshot: str
    """The snapshot, or empty for what belongs to none."""
    what: str
    kind: str
    why: str
    repaired: str = ""
    """Where the right bytes came from when it was repaired, else empty."""
    unrepaired: str = ""
    """Why it could not be repaired, if that was tried, else empty."""

    @property
    def is_harm(self) -> bool:
        """Whether somebody who relies on the store gets less than was promised."""
        return not self.repaired and self.kind in {MISSING, WRONG}


@frozen
class Flaw:
    """What is wrong with one file of a snapshot: with its blob, or only with its *leaves*. *stays*: why nobody can mend that, or empty."""

    kind: str
    why: str
    leaves: bool = False
    stays: str = ""


def kind_of(error: ModelCacheError) -> str:
    """The kind of problem that *error* is."""
    if isinstance(error, (StoreUnsupported, NotDecodable)):
        return UNSUPPORTED
    return MISSING if isinstance(error, NotFound) else WRONG


def flaw_of(error: ModelCacheError) -> Flaw:
    """What *error*, with which a blob could not be read, says of it."""
    return unread(error.message) if isinstance(error, NotDecodable) else Flaw(kind_of(error), error.message)


def unread(why: str) -> Flaw:
    """Of a blob that may be right, and cannot be read here, as *why* says: nobody mends that."""
    return Flaw(UNSUPPORTED, why, stays=_READ_ELSEWHERE)


def told(
    name: str,
    manifest: Manifest,
    found: Mapping[str, Flaw],
    *,
    menders: Sequence[Mender],
    published: bool = True,
    dropped: bool = False,
) -> Iterator[Problem]:
    """
    A problem for each path of *found* in the snapshot *name*, in the order of *manifest*, after *menders*, one or none, tried to mend it.

    What is not *published* gets its blobs again, and no ref; nor is it harm to anybody when it was *dropped*.
    """
    why = ""
    for mender in menders if found else ():
        flawed = [(file.sha256, found[file.path]) for file in manifest.files if file.path in found]
        flawed = [(digest, flaw) for digest, flaw in flawed if not flaw.stays]
        bad = {digest for digest, flaw in flawed if not flaw.leaves and flaw.kind != SPARE}
        spare = {digest for digest, flaw in flawed if flaw.kind == SPARE}
        whole = published and any(flaw.leaves for _, flaw in flawed)
        why = mender.mend(manifest, bad, spare=spare, whole=whole)
    for file in manifest.files:
        flaw = found.get(file.path)
        if flaw is None:
            continue
        repaired = unrepaired = ""
        for mender in menders:
            if flaw.stays:
                unrepaired = flaw.stays
            elif flaw.leaves:
                repaired, unrepaired = ("", why or _NO_REF) if why or not published else (_ITS_BLOB, "")
            else:
                repaired = mender.sources.get(file.sha256, "")
                unrepaired = "" if repaired else mender.failures.get(file.sha256, why)
        yield Problem(name, file.path, DROPPED if dropped else flaw.kind, flaw.why, repaired, unrepaired)


BESIDE = "a right copy stands before it; both go when nobody needs them any more"
ITS_MANIFEST = "its manifest says so: only another snapshot can change that"
_READ_ELSEWHERE = "nobody knows here whether it is right: install what it needs, and verify it again"
_ITS_BLOB = "its blob"
_NO_REF = "it is no snapshot that readers find: ci-modelcache undelete brings it back first"
