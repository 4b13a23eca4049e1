"""Find out whether mirrors are reachable, fresh and honest: what a branch means there, and a sample of what they send."""

from __future__ import annotations

import logging
import random as _random
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from ci_modelcache.errors import (
    AccessDenied,
    IntegrityError,
    Misanswer,
    ModelCacheError,
    NotFound,
    Unavailable,
)
from ci_modelcache.model.digest import verified
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.health import FAULTS
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.verbs.lock import newest
from ci_modelcache.verbs.mirrors_samples import SAMPLES, chosen, exactly, liars, ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.project import ProjectModel
    from ci_modelcache.sources.protocol import Authority, ByteSource
    from ci_modelcache.transfer.retry import RetryPolicy
    from ci_modelcache.verbs.mirrors import Candidate
    from ci_modelcache.verbs.step import Step

_log = logging.getLogger(__name__)

OK, STALE, MISSING, UNREACHABLE, DENIED, WRONG = "ok", "stale", "missing", "unreachable", "denied", "wrong"
UNJUDGED = "unjudged"
_EXIT_CODES = {
    OK: 0,
    UNJUDGED: 0,
    STALE: Unavailable.exit_code,
    MISSING: NotFound.exit_code,
    UNREACHABLE: Unavailable.exit_code,
    DENIED: AccessDenied.exit_code,
    WRONG: IntegrityError.exit_code,
}
_WORST_FIRST = (WRONG, UNREACHABLE, STALE, DENIED, MISSING)

PATIENCE = 10.0
"""Seconds that one source is waited for to say what a branch means."""
_READ_PATIENCE = 30.0


@frozen
class MirrorCheck:
    """What is true of one source and one model now."""

    ref: str
    """The model and revision that was looked at."""
    url: str
    """The address of the source."""
    kind: str
    """`hub`, `files`, `modelscope` or `store`."""
    authority: bool
    """Whether it is the endpoint, which says what the revision means."""
    verdict: str
    """`ok`, `stale`, `missing`, `unreachable`, `denied`, `wrong`, or `unjudged` when the authority does not answer."""
    expected: str | None
    """The commit that the revision means by the authority's word; null when it does not answer."""
    commit: str | None
    """The commit that it means by this source's word; null when it was not asked, or did not answer."""
    since: str | None
    """When the commit that a stale mirror lacks was made, as the authority writes it; null when that is not known."""
    compared: int
    """Bytes that were read here and looked at."""
    detail: str
    """What was found, in words."""
    exit_code: int
    """What the verdict is worth."""


@frozen
class CheckReport:
    """Every source with every model."""

    checks: tuple[MirrorCheck, ...]
    """One for each model and source, in order of priority."""
    exit_code: int
    """That of the worst verdict: `wrong` 13, `unreachable` or `stale` 11, `denied` 12, `missing` 10, else 0."""


def check(
    models: Sequence[ProjectModel],
    candidates: Sequence[Candidate],
    *,
    authority: Authority,
    step: Step,
    random: Callable[[], float] = _random.random,
) -> CheckReport:
    """
    Ask every Hub among the *candidates* what each of *models* means, and each of them for a sample of its bytes.

    The sample is one small file, which is proven by its digest, and some ranges at *random* offsets of the largest one, which are
    compared: where they differ, who is alone is wrong, and of two that differ the authority is believed. What a source does
    wrong is its verdict; raised are `NotFound` and `AccessDenied` of the authority, and `DeadlineExceeded`.
    """
    checks: list[MirrorCheck] = []
    for model in models:
        checks += _Inquiry(model, candidates, authority, step, random).run()
    found = {each.verdict for each in checks}
    worst = next((verdict for verdict in _WORST_FIRST if verdict in found), OK)
    return CheckReport(tuple(checks), _EXIT_CODES[worst])


@define
class _Finding:
    """What is known of one candidate so far; the first verdict that is not ok stays, unless bytes are wrong."""

    candidate: Candidate
    verdict: str = OK
    commit: str | None = None
    since: str | None = None
    compared: int = 0
    samples: int = 0
    words: list[str] = field(factory=list)

    @property
    def source(self) -> ByteSource:
        """The source of a candidate that can be used."""
        assert self.candidate.source is not None  # noqa: S101  # narrows the type: others are never asked
        return self.candidate.source

    def fault(self, error: ModelCacheError) -> None:
        """It failed by *error*."""
        verdict = _verdict(error)
        if self.verdict == STALE and verdict == MISSING:
            return  # that is what stale means
        self.judge(verdict, error.message)

    def judge(self, verdict: str, why: str) -> None:
        """It is *verdict*, for the reason *why*."""
        if self.verdict in {OK, UNJUDGED} or verdict == WRONG:
            self.verdict = verdict
        self.note(why)

    def note(self, what: str) -> None:
        """Say *what*, once."""
        if what not in self.words:
            self.words.append(what)


def _verdict(error: ModelCacheError) -> str:
    if isinstance(error, IntegrityError):
        return WRONG
    if isinstance(error, AccessDenied):
        return DENIED
    return MISSING if isinstance(error, NotFound) else UNREACHABLE


class _Inquiry:
    """All candidates about one model."""

    def __init__(
        self,
        model: ProjectModel,
        candidates: Sequence[Candidate],
        authority: Authority,
        step: Step,
        random: Callable[[], float],
    ) -> None:
        self._model = model
        self._ref: ModelRef | None = None if model.is_range else model.ref
        self._authority = authority
        self._step = step
        self._random = random
        self._findings = [_Finding(each) for each in candidates]
        self._head: str | None = None

    @property
    def _name(self) -> str:
        return f"{self._model.repo}@{self._model.revision}" if self._ref is None else str(self._ref)

    def run(self) -> Iterator[MirrorCheck]:
        for finding in self._findings:
            if finding.candidate.source is None:
                finding.judge(UNREACHABLE, finding.candidate.problem)
        listing = self._told()
        for finding in self._usable:
            self._ask(finding)
        if listing is not None and self._ref is not None:
            self._sample(listing, self._ref.at(listing.commit))
        for finding in self._findings:
            yield self._result(finding)

    @property
    def _usable(self) -> list[_Finding]:
        return [each for each in self._findings if each.candidate.source is not None]

    # --- what the revision means

    def _told(self) -> Listing | None:
        """What the authority says; None when it does not answer."""
        try:
            ref = self._ref = self._exactly()
            self._head = self._authority.resolve(ref, patience=PATIENCE).commit
            return self._authority.listing(ref, self._head)
        except (Unavailable, IntegrityError) as error:
            self._head = None
            for finding in self._findings:
                if finding.candidate.authority:
                    finding.fault(error)
                elif finding.verdict == OK:
                    finding.judge(UNJUDGED, "the authority does not answer, so there is nothing to compare with")
            return None

    def _exactly(self) -> ModelRef:
        """What is looked at: the model, or the tag that its range of versions means by the authority's word."""
        model = self._model
        if not model.is_range:
            return model.ref
        anyhow = ModelRef(model.repo, type=model.type)
        return anyhow.at(newest(model.revision, self._authority.tags(anyhow), repo=model.repo).name)

    def _ask(self, finding: _Finding) -> None:
        """What the revision means by the word of a mirror."""
        source, ref = finding.candidate.source, self._ref
        if finding.candidate.authority:
            finding.commit = self._head
            return
        if ref is None or ref.is_pinned or not isinstance(source, HubEndpoint):
            return
        try:
            finding.commit = source.resolve(ref, patience=PATIENCE).commit
        except FAULTS as error:
            finding.fault(error)
            return
        if self._head is None or finding.commit == self._head or self._has_moved(ref, finding.commit):
            return
        finding.since = self._since(ref)
        since = f", which was made {finding.since}" if finding.since else ""
        what = f"{ref.revision} is {finding.commit} here, and {self._head} by the authority{since}"
        finding.judge(STALE, what)

    def _has_moved(self, ref: ModelRef, commit: str) -> bool:
        """Whether the authority says *commit* by now: a mirror may have heard of a push a second before us."""
        return self._authority.resolve(ref, patience=PATIENCE).commit == commit

    def _since(self, ref: ModelRef) -> str | None:
        for finding in self._findings:
            source = finding.candidate.source
            if finding.candidate.authority and isinstance(source, HubEndpoint):
                try:
                    return source.changed(ref)
                except FAULTS as error:
                    _log.info("when %s changed is not known: %s", ref, error)
        return None

    # --- what is sent

    def _sample(self, listing: Listing, ref: ModelRef) -> None:
        whole, large = chosen(listing)
        for finding in self._usable:
            if whole is not None and finding.verdict in {OK, STALE}:
                self._prove(finding, whole, ref)
        if large is None:
            return
        asked = [finding for finding in self._usable if finding.verdict == OK]
        for start, stop in ranges(large, self._random):
            self._compare(large, start, stop, ref)
        agreed = [finding for finding in asked if finding.verdict == OK and finding.samples == SAMPLES]
        told = "are the same elsewhere" if len(agreed) > 1 else "came, with nobody else's to compare them with"
        for finding in agreed:
            finding.note(f"{SAMPLES} samples of {large.path} {told}")

    def _prove(self, finding: _Finding, file: ListedFile, ref: ModelRef) -> None:
        def read(patience: RetryPolicy) -> None:
            finding.compared = 0
            pieces = exactly(finding.source, ref, file, (0, file.size), patience.deadline)
            for piece in verified(pieces, file.expected, f"{file.path} from {finding.candidate.url}"):
                finding.compared += len(piece)

        if self._reads(finding, read, file):
            finding.note(f"{file.path} is right")

    def _compare(self, file: ListedFile, start: int, stop: int, ref: ModelRef) -> None:
        answers: dict[str, bytes] = {}
        for finding in self._usable:
            if finding.verdict == OK:
                self._take(finding, file, ref, (start, stop), answers)
        for url, why in liars(answers, self._own).items():
            self._of(url).judge(WRONG, f"bytes {start} to {stop} of {file.path} {why}")

    def _take(
        self, finding: _Finding, file: ListedFile, ref: ModelRef, part: tuple[int, int], answers: dict[str, bytes]
    ) -> None:
        def read(patience: RetryPolicy) -> None:
            answers[finding.candidate.url] = b"".join(exactly(finding.source, ref, file, part, patience.deadline))

        if self._reads(finding, read, file):
            finding.compared += part[1] - part[0]
            finding.samples += 1

    def _reads(self, finding: _Finding, read: Callable[[RetryPolicy], None], file: ListedFile) -> bool:
        """Whether *read* came to its end; if not, that is a fault of the source."""
        doing = f"reading {file.path} from {finding.candidate.url}"
        try:
            with self._step.retry.briefly(seconds=_READ_PATIENCE, doing=doing) as patience:
                patience.call(lambda: read(patience), doing=doing)
        except Misanswer as error:
            if error.about == "range" and finding.source.sends_ranges is False:
                finding.note(f"it sends {file.path} from its beginning only, so it was not sampled")
                return False
            finding.fault(error)
            return False
        except FAULTS as error:
            finding.fault(error)
            return False
        return True

    # --- the result

    @property
    def _own(self) -> str:
        return next((each.candidate.url for each in self._findings if each.candidate.authority), "")

    def _of(self, url: str) -> _Finding:
        return next(each for each in self._findings if each.candidate.url == url)

    def _result(self, finding: _Finding) -> MirrorCheck:
        candidate = finding.candidate
        return MirrorCheck(
            ref=self._name,
            url=candidate.url,
            kind=candidate.kind,
            authority=candidate.authority,
            verdict=finding.verdict,
            expected=self._head,
            commit=finding.commit,
            since=finding.since,
            compared=finding.compared,
            detail="; ".join(finding.words) or "it holds no file that could be looked at",
            exit_code=_EXIT_CODES[finding.verdict],
        )
