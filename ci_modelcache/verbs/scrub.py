"""Prove a store object by object, whether or not a snapshot names it: its structure, and all of its bytes or the next sample of them."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.cache.inventory import (
    Document,
    Kind,
    Other,
    Rest,
    Stored,
    check_document,
    everything,
    intended,
    lacks_marker,
    manifest_of,
    named_by,
    roots,
    sizes,
    stands,
)
from ci_modelcache.cache.scrub import Cursor
from ci_modelcache.errors import IntegrityError, NotFound, ObjectNotFound, StoreUnsupported
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.transfer.parallel import for_each, in_order
from ci_modelcache.verbs.findings import BESIDE, DROPPED, MISSING, SPARE, WRONG, Flaw, Problem, kind_of, told
from ci_modelcache.verbs.initialise import initialise
from ci_modelcache.verbs.sample import Name, Reading
from ci_modelcache.verbs.verify import VerifyReport, recovered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.cache.inventory import Root
    from ci_modelcache.cache.modelcache import ModelCache
    from ci_modelcache.model.manifest import Manifest
    from ci_modelcache.verbs.mend import Mender
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

_READERS = 16
"""Documents that are read at a time: each is one small request."""
_LISTED = 100
"""Unknown objects that a report names."""
_LEAF_LINE = 65
"""Bytes of one line of a leaf list: 64 hex digits and the end of the line."""
_OF_NOBODY = "it belongs to no snapshot: ci-modelcache prune takes what nobody needs"


_Fault = NotFound | IntegrityError | StoreUnsupported
_Found = tuple["Root", tuple["Manifest", ...], tuple[_Fault, ...]]
"""What names a snapshot, and its manifest or what is wrong with that; neither when it is gone."""


@frozen
class ScrubOptions:
    """
    *content*: whether bytes are read, and not only names and lengths.

    *share*: which part of them; more than 0, and less than 1 for a sample, which goes on where the last one ended. *shared*: whether that
    may be noted in the store, for all machines.
    """

    content: bool = True
    share: float = 1.0
    sample: bool = False
    shared: bool = False


EVERYTHING = ScrubOptions()


def scrub(
    cache: ModelCache, *, step: Step, options: ScrubOptions = EVERYTHING, menders: Sequence[Mender] = ()
) -> VerifyReport:
    """
    Look at every object of *cache* and report what is not as promised; raises for a store that fails, or has a wrong marker.

    First the structure: documents, what they name, lengths. Then bytes, as *options* say. What *menders*, one or none, can mend is no
    harm any more. Whatever ends it, the next sample goes on where this one has come to.
    """
    started = step.clock()
    audit = _Audit(cache, step, menders)
    audit.look_at_marker()
    audit.read_roots()
    audit.list_objects()
    audit.read_documents()
    reading = Reading(cache, step, needed=audit.needed, leaves=audit.leaves)
    if options.sample:
        cursor = Cursor(cache, step.state / "scrub", shared=options.shared)
        reading.sample(audit.total * options.share, cursor)
    elif options.content:
        reading.all()
    audit.take(reading)
    audit.look_for_missing()
    audit.tell()
    return audit.report(reading, seconds=step.clock() - started)


class _Audit:
    """What is known of a store so far."""

    def __init__(self, cache: ModelCache, step: Step, menders: Sequence[Mender]) -> None:
        self._cache = cache
        self._step = step
        self._menders = menders
        self._problems: list[Problem] = []
        self._flaws: dict[Name, Flaw] = {}
        self._unseen: set[Name] = set()
        self._intended = intended(cache)
        self._documents: list[Document] = []
        self._unknown: list[str] = []
        self._counts: Counter[str] = Counter()
        self.needed: dict[Name, int] = {}
        """Bytes of all that snapshots name; -1 where nobody says how many."""
        self.leaves: dict[Digest, Digest] = {}
        """The leaf list of each blob that has one."""
        self.total = 0
        """Bytes of all that is named by a digest."""

    # --- structure

    def look_at_marker(self) -> None:
        """A store without its marker is taken for an empty one by whoever looks at that first."""
        for name in lacks_marker(self._cache) if any(True for _ in everything(self._cache)) else ():
            repaired = ""
            for _ in self._menders:
                initialise(self._cache)
                repaired = "a new one"
            self._problems.append(Problem("", name, MISSING, f"{self._cache.url} has objects and no marker", repaired))

    def read_roots(self) -> None:
        """Learn from every ref, pin and trash what is needed; a ref that leads nowhere is mended first."""
        for root, manifests, errors in self._roots():
            self._counts["snapshots"] += root.published
            for manifest in manifests:
                self._need(root, manifest)
            for error in errors:
                self._lost(root, error)

    def _roots(self) -> Iterator[_Found]:
        """Each root with its manifest, or with what is wrong with it; those that vanished are left out."""

        def read(root: Root) -> _Found:
            try:
                return root, (manifest_of(self._cache, root),), ()
            except (NotFound, IntegrityError, StoreUnsupported) as error:
                return root, (), (error,) if stands(self._cache, root) else ()

        deadline, doing = self._step.deadline, f"reading what {self._cache.url} holds"
        yield from in_order(roots(self._cache), read, workers=_READERS, deadline=deadline, doing=doing)

    def _lost(self, root: Root, error: _Fault) -> None:
        # What is wrong with it is told here, and not once more as garbage.
        self.needed.update({(Kind.MANIFEST, digest): -1 for digest in named_by(self._cache, root)})
        if root.published and root.snapshot is not None:
            for manifest in recovered(root.snapshot, error, self._menders, self._problems):
                self._need(root, manifest)
            return
        try:
            # It may have been read before the ref of the same snapshot was mended.
            manifest = manifest_of(self._cache, root)
        except (NotFound, IntegrityError, StoreUnsupported) as still:
            why = "readers do not need it" if self._menders else ""
            kind = DROPPED if root.dropped else kind_of(still)
            self._problems.append(Problem(root.name, "manifest", kind, still.message, unrepaired=why))
        else:
            self._need(root, manifest)

    def _need(self, root: Root, manifest: Manifest) -> None:
        self._counts["files"] += len(manifest.files) * root.published
        self.needed.setdefault((Kind.MANIFEST, manifest.digest), -1)
        for file in manifest.files:
            blob = Kind.BLOB, file.sha256
            known = self.needed.setdefault(blob, file.size)
            if known != file.size or self.leaves.get(file.sha256, file.leaves) != file.leaves:
                why = f"another snapshot says of {file.sha256} that it has {known} bytes or another leaf list, this one {file.size} bytes"
                self._problems.append(Problem(root.name, file.path, WRONG, why))
                continue
            if file.leaves is not None:
                self.leaves[file.sha256] = file.leaves
                self.needed.setdefault((Kind.LEAVES, file.leaves), _LEAF_LINE * -(-file.size // LEAF_SIZE))

    def list_objects(self) -> None:
        """Compare what is there with what is needed."""
        self._unseen = set(self.needed)
        for one in everything(self._cache):
            if isinstance(one, Stored):
                self._counts["objects"] += len(one.copies)
                self.total += one.size
                self._compare(one)
            else:
                self._counts["objects"] += 1
                self._counts["bytes"] += one.size
                self._note(one)

    def _note(self, one: Document | Other) -> None:
        if isinstance(one, Document):
            self._documents += [] if one.names_snapshot else [one]
        elif one.why is Rest.UNKNOWN:
            self._counts["unknown"] += 1
            if len(self._unknown) < _LISTED:
                self._unknown.append(one.key)

    def _compare(self, one: Stored) -> None:
        name = one.kind, one.digest
        needed = self.needed.get(name)
        if needed is None:
            if one.digest not in self._intended:
                self._counts["unnamed"] += len(one.copies)
                self._counts["garbage"] += one.size
            return
        self._unseen.discard(name)
        wrong = [copy for copy in one.copies if needed not in {-1, copy.size}]
        if wrong:
            why = f"{wrong[0]}: expected {needed} bytes, got {wrong[0].size}"
            stays = BESIDE if one.plain and one.copies[0] not in wrong else ""
            self._flaws[name] = Flaw(WRONG, why) if len(wrong) == len(one.copies) else Flaw(SPARE, why, stays=stays)

    def read_documents(self) -> None:
        """Everything that is a document and names no snapshot must be one of its kind."""

        def read(document: Document) -> None:
            try:
                check_document(self._cache, document)
            except IntegrityError as error:
                why = "it is written anew by whoever needs it" if self._menders else ""
                self._problems.append(Problem("", document.key, WRONG, error.message, unrepaired=why))
            except ObjectNotFound as error:
                _log.debug("it went since it was listed: %s", error)

        deadline, doing = self._step.deadline, f"reading documents of {self._cache.url}"
        for_each(self._documents, read, workers=_READERS, deadline=deadline, doing=doing)
        self._problems.sort(key=lambda problem: (problem.snapshot, problem.what))

    # --- content

    def take(self, reading: Reading) -> None:
        """What was found by reading, besides what lengths have told."""
        for name, flaw in reading.flaws.items():
            if name not in self._flaws or self._flaws[name].kind == SPARE:
                self._flaws[name] = flaw
        self._unseen |= reading.vanished - set(self._flaws)
        unrepaired = _OF_NOBODY if self._menders else ""
        self._problems += [Problem("", copy, WRONG, why, unrepaired=unrepaired) for copy, why in reading.garbage]

    def look_for_missing(self) -> None:
        """Ask for what was not seen: it may have come since."""

        def look(name: Name) -> None:
            found, needed = sizes(self._cache, *name), self.needed[name]
            if not any(needed in {-1, size} for size in found):
                why = f"{self._cache.url} holds no {name[0]} {name[1]}" + (" of the right length" if found else "")
                self._flaws[name] = Flaw(WRONG if found else MISSING, why)

        deadline, doing = self._step.deadline, f"looking again in {self._cache.url}"
        for_each(sorted(self._unseen), look, workers=_READERS, deadline=deadline, doing=doing)

    # --- what is told

    def tell(self) -> None:
        """Say which snapshots have what was found, and mend it."""
        if not self._flaws:
            return
        known: set[Digest] = set()
        for root, manifests, _ in self._roots():
            for manifest in manifests:
                if manifest.digest in known:
                    continue  # it was told of the ref that names the same
                known.add(manifest.digest)
                found = self._found(manifest)
                self._problems += told(
                    root.name,
                    manifest,
                    found,
                    menders=self._menders,
                    published=root.published,
                    dropped=root.dropped,
                )
                for flaw in map(self._flaws.get, [(Kind.MANIFEST, manifest.digest)]):
                    if flaw is not None:
                        self._problems.append(
                            Problem(root.name, "manifest", flaw.kind, flaw.why, unrepaired=flaw.stays)
                        )

    def _found(self, manifest: Manifest) -> dict[str, Flaw]:
        found: dict[str, Flaw] = {}
        for file in manifest.files:
            blob = self._flaws.get((Kind.BLOB, file.sha256))
            if blob is not None:
                found[file.path] = blob
            elif file.leaves is not None and (Kind.LEAVES, file.leaves) in self._flaws:
                leaves = self._flaws[Kind.LEAVES, file.leaves]
                found[file.path] = Flaw(leaves.kind, leaves.why, leaves=True, stays=leaves.stays)
        return found

    def report(self, reading: Reading, *, seconds: float) -> VerifyReport:
        """All of it."""
        counts = self._counts
        return VerifyReport(
            store=self._cache.url,
            snapshots=counts["snapshots"],
            files=counts["files"],
            blobs=reading.blobs,
            bytes_read=reading.bytes_read,
            problems=tuple(self._problems),
            seconds=seconds,
            repaired=sum(1 for problem in self._problems if problem.repaired),
            bytes_repaired=sum(mender.bytes_mended for mender in self._menders),
            objects=counts["objects"],
            bytes_stored=counts["bytes"] + self.total,
            unnamed=counts["unnamed"],
            bytes_unnamed=counts["garbage"],
            unknown=tuple(self._unknown),
            unknown_objects=counts["unknown"],
            round=reading.position.number,
            covered=reading.covered if reading.position.number else 0.0,
        )
