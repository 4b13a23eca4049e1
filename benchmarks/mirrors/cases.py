"""The only list of what is measured: which Hubs go wrong and how, who is sent there, and what is promised."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from benchmarks.mirrors.entries import MB, Client, Entry
from benchmarks.mirrors.hubs import Plan
from benchmarks.mirrors.targets import Faster, Frugal, Leaves, Resumes, Target
from ci_modelcache.demo.faults import TooManyRequests, always
from ci_modelcache.errors import IntegrityError, Unavailable
from ci_modelcache.transfer.assemble import SPLIT
from tests.parts.hub_faults import (
    CutShare,
    Drops,
    Flipped,
    HangUp,
    IgnoredRange,
    Limited,
    OverLong,
    Poison,
    ResetAtShare,
    Stall,
    Status,
    Truncated,
    WebPage,
    WrongEtag,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.demo.exchange import Fault, Request

RATE = 20 * MB
"""Bytes a second of one connection to a limited mirror: far below what one core can serve."""
_DROP_AFTER = 3 * MB

THEIRS = Entry("huggingface_hub", Client.THEIRS)
ALONE = Entry("ours")
MIRRORED = Entry("ours, mirrored", asks=1, mirrors=(0,))
"""The authority, which is right, is the other source of bytes."""
_MIRRORED_ONCE_MORE = Entry("ours, mirrored", asks=2, mirrors=(0, 1))
_FOUR = "ours, 4 mirrors"
_ONE = "ours, 1 connection"

_LIMITED: Plan = (partial(Limited, rate=RATE),)
_CLEAN: Plan = ()


@frozen
class Case:
    """
    Something that goes wrong, as *says*: *hubs* with their plans, and *entries* that are run in turn, *rounds* times.

    *size* is that of all *files* together. After *patience* seconds a client is killed, and with *killed_at* when that share of
    the bytes was sent: then it is started again. *watched_after*: a drop counts from so many bytes of one answer on.
    *targets* are promised beside the ends of ours.
    """

    name: str
    says: str
    hubs: tuple[Plan, ...]
    entries: tuple[Entry, ...]
    size: int = 32 * MB
    files: int = 1
    rounds: int = 3
    patience: float = 60.0
    killed_at: float | None = None
    watched_after: int = 0
    targets: tuple[Target, ...] = ()
    slow: bool = False
    """Whether it is mostly waiting, or means nothing with little to send."""

    @property
    def quick(self) -> Case:
        """The same in a few seconds: one round, fewer bytes, less patience. Its figures mean little, its ends as much."""
        return evolve(self, size=min(self.size, 20 * MB), rounds=1, patience=min(self.patience, 25.0))


def _content(request: Request) -> bool:
    return request.is_file


def _bad_mirror(
    name: str,
    says: str,
    *plan: Callable[[], Fault],
    alone: int = IntegrityError.exit_code,
    rounds: int = 1,
    slow: bool = False,
) -> Case:
    """A mirror that is wrong for good by *plan*, beside an authority that is right."""
    entries = (THEIRS, evolve(ALONE, exits=alone), MIRRORED)
    return Case(name, says, (plan, _CLEAN), entries, rounds=rounds, slow=slow)


def _mishap(name: str, says: str, *plan: Callable[[], Fault], rounds: int = 2, slow: bool = False) -> Case:
    """Something that happens now and then, at the only Hub there is."""
    return _bad_mirror(name, says, *plan, alone=0, rounds=rounds, slow=slow)


CASES: tuple[Case, ...] = (
    _mishap("clean", "nothing goes wrong", rounds=3),
    _mishap("429", "one 429 with Retry-After: 2", partial(TooManyRequests, retry_after="2", times=1)),
    _mishap("503", "five times 503", partial(Status, status=503, times=5), slow=True),
    _mishap("reset-1", "reset at 1 % of the first answer", partial(ResetAtShare, share=0.01, times=1)),
    _mishap("reset-50", "reset at 50 % of the first answer", partial(ResetAtShare, share=0.5, times=1)),
    _mishap("reset-99", "reset at 99 % of the first answer", partial(ResetAtShare, share=0.99, times=1)),
    _mishap(
        "stall",
        "the first answer stalls for ever after 2 MB",
        partial(Stall, after=2 * MB, times=1),
        rounds=1,
        slow=True,
    ),
    _mishap(
        "range",
        "Range is ignored, and the first answer ends at 50 %",
        partial(ResetAtShare, share=0.5, times=1),
        partial(IgnoredRange),
    ),
    _bad_mirror("truncated", "1 MB in place of the file", partial(Truncated, keep=MB)),
    _bad_mirror("over-long", "1 kB more than the file", partial(OverLong, extra=1000)),
    _bad_mirror("html", "a web page with status 200", partial(WebPage)),
    _bad_mirror("etag", "the ETag of another file", partial(WrongEtag, when=_content)),
    _bad_mirror("flipped", "one bit flipped, always the same", partial(Flipped, at=5 * MB)),
    Case(
        "drop",
        f"every answer drops to 50 kB/s after {_DROP_AFTER // MB} MB",
        ((partial(Drops, after=_DROP_AFTER), *_LIMITED), _LIMITED),
        # Alone there is nothing better to be had: who is slow everywhere has a slow link.
        (THEIRS, evolve(ALONE, exits=None), MIRRORED),
        rounds=1,
        patience=20.0,
        slow=True,
        watched_after=_DROP_AFTER,
        targets=(Leaves(MIRRORED.label, 10.0),),
    ),
    Case(
        "poison",
        "one mirror of three sends wrong bytes only",
        ((partial(Poison), *_LIMITED), _LIMITED, _LIMITED),
        (THEIRS, _MIRRORED_ONCE_MORE),
        size=64 * MB,
        targets=(Frugal(MIRRORED.label, SPLIT),),
    ),
    Case(
        "dead",
        "a mirror is dead",
        ((partial(HangUp, when=always),), _CLEAN),
        (THEIRS, MIRRORED),
        rounds=2,
    ),
    Case(
        "all-dead",
        "all hang up when asked for bytes",
        ((partial(HangUp),), (partial(HangUp),)),
        (THEIRS, evolve(ALONE, exits=Unavailable.exit_code), evolve(MIRRORED, exits=Unavailable.exit_code)),
        rounds=1,
        slow=True,
    ),
    Case(
        "cuts",
        "12 % of answers are cut, half of them by a reset; 40 files",
        ((partial(CutShare, share=0.12, seed=1),), (partial(CutShare, share=0.12, seed=2),)),
        (THEIRS, ALONE, MIRRORED),
        size=40 * MB,
        files=40,
    ),
    Case(
        "speed",
        f"{RATE // MB} MB/s for each connection",
        (_LIMITED, _LIMITED, _LIMITED, _LIMITED),
        (
            THEIRS,
            Entry(_ONE, connections=1),
            Entry(ALONE.label),
            Entry(f"{_FOUR}, 4 connections", mirrors=(0, 1, 2, 3), connections=4),
            Entry(_FOUR, mirrors=(0, 1, 2, 3)),
        ),
        size=256 * MB,
        targets=(
            Faster(f"{_FOUR}, 4 connections", _ONE, 3.5, transfer=True),
            Faster(_FOUR, _ONE, 3.5),
            Faster(ALONE.label, THEIRS.label, 4.0),
        ),
        slow=True,
    ),
    Case(
        "open",
        "no limit: the machine is the limit",
        (_CLEAN, _CLEAN, _CLEAN),
        (THEIRS, ALONE, Entry("ours, 3 mirrors", mirrors=(0, 1, 2))),
        size=256 * MB,
    ),
    Case(
        "kill",
        f"killed at 60 %, started again; {RATE // MB} MB/s for each connection",
        (_LIMITED,),
        (THEIRS, ALONE),
        size=100 * MB,
        killed_at=0.6,
        targets=(Resumes(ALONE.label, SPLIT),),
    ),
)
