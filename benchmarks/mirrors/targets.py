"""The only module that judges: what is promised of ci-modelcache, held against what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from benchmarks.mirrors.entries import MB, Client, End, Entry, Run, Spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Runs = Mapping[str, Sequence[Run]]
    """By the label of the entry."""


@frozen
class Verdict:
    """Whether a target was *met*, and the figures, in a sentence."""

    met: bool
    says: str


class Target(Protocol):
    """Something that is promised."""

    def judge(self, runs: Runs, size: int) -> Verdict:
        """Hold it against the *runs* of a case with *size* bytes."""


@frozen
class Faster:
    """The median of *label* is *times* faster than that of *than*; *transfer*: without the start of the process."""

    label: str
    than: str
    times: float
    transfer: bool = False

    def judge(self, runs: Runs, size: int) -> Verdict:  # noqa: ARG002  # the protocol's arguments
        ours, theirs = (self._median(runs[label]) for label in (self.label, self.than))
        ratio = theirs / ours
        what = "transfer" if self.transfer else "whole process"
        says = f"{self.label}: {ratio:.2f}x as fast as {self.than} ({what}); promised {self.times:g}x"
        return Verdict(ratio >= self.times, says)

    def _median(self, runs: Sequence[Run]) -> float:
        return Spread.of((run.transfer if self.transfer else None) or run.seconds for run in runs).median


@frozen
class Frugal:
    """*label* never has Hubs send more than *most* bytes beside those of the files."""

    label: str
    most: int

    def judge(self, runs: Runs, size: int) -> Verdict:
        more = max(run.received for run in runs[self.label]) - size
        says = f"{self.label}: {more / MB:+.1f} MB beside the files; promised at most {self.most / MB:.1f} MB"
        return Verdict(more <= self.most, says)


@frozen
class Leaves:
    """*label* has left a mirror *seconds* after it dropped to a trickle."""

    label: str
    seconds: float

    def judge(self, runs: Runs, size: int) -> Verdict:  # noqa: ARG002  # as above
        longest = max(run.left or 0.0 for run in runs[self.label])
        says = f"{self.label}: left it after {longest:.1f} s; promised {self.seconds:g} s"
        return Verdict(longest <= self.seconds, says)


@frozen
class Resumes:
    """*label*, killed and started again, has at most *most* bytes sent twice."""

    label: str
    most: int

    def judge(self, runs: Runs, size: int) -> Verdict:  # noqa: ARG002  # as above
        again = max(run.again or 0 for run in runs[self.label])
        says = f"{self.label}: {again / MB:.1f} MB sent again after a kill; promised at most {self.most / MB:.1f} MB"
        return Verdict(again <= self.most, says)


def ends(entries: Sequence[Entry], runs: Runs) -> list[Verdict]:
    """Whether each of our *entries* ended as it has to, every time: a failure with its own exit code, and the culprit named."""
    return [
        _end(entry, runs[entry.label]) for entry in entries if entry.client is Client.OURS and entry.exits is not None
    ]


def _end(entry: Entry, runs: Sequence[Run]) -> Verdict:
    promised = "success with the right bytes" if entry.exits == 0 else f"exit code {entry.exits} that names the culprit"
    right = [
        run.ended is End.OK if entry.exits == 0 else run.exit == entry.exits and run.ended is End.FAILED and run.named
        for run in runs
    ]
    got = f"{sum(right)} of {len(runs)}"
    return Verdict(all(right), f"{entry.label}: promised {promised}; {got}")
