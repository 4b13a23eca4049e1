"""The only module that decides which bytes of a model are looked at to see whether a source is honest, and who is not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ci_modelcache.errors import BrokenOff

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from ci_modelcache.model.listing import ListedFile, Listing
    from ci_modelcache.model.ref import ModelRef
    from ci_modelcache.sources.protocol import ByteSource
    from ci_modelcache.transfer.deadline import Deadline

WHOLE = 16 * 1024 * 1024
"""Bytes of a file that is read in full at most."""
SAMPLE = 64 * 1024
SAMPLES = 3
"""How many parts of a large file are read, of how many bytes each."""


def ranges(file: ListedFile, random: Callable[[], float]) -> list[tuple[int, int]]:
    """`SAMPLES` parts of *file*, each a start and a stop, in order; *random* gives numbers from 0 up to 1."""
    length = min(SAMPLE, file.size)
    starts = sorted(int(random() * (file.size - length + 1)) for _ in range(SAMPLES))
    return [(start, start + length) for start in starts]


def exactly(  # what `ByteSource.open` takes, and until when
    source: ByteSource, ref: ModelRef, file: ListedFile, part: tuple[int, int], deadline: Deadline
) -> Iterator[bytes]:
    """The bytes of *part* of *file*, a start and a stop, of *ref*, which is pinned: not one more; `BrokenOff` when they end early."""
    start, stop = part
    doing = f"reading {file.path} from {source.url}"
    with source.open(ref, ref.revision, file, start=start, stop=None if stop == file.size else stop) as sent:
        for piece in sent:
            kept = piece[: stop - start]
            start += len(kept)
            yield kept
            if start == stop:
                return
            deadline.check(doing)
    msg = f"{doing}: it ended at {start}, expected bytes up to {stop}"
    raise BrokenOff(msg)


def chosen(listing: Listing) -> tuple[ListedFile | None, ListedFile | None]:
    """
    The file to read in full, and the one to read samples of.

    In full: the smallest LFS file, as it is of these that a badly filled mirror has other bytes, or else the smallest one that is
    not empty, of at most `WHOLE` bytes. Samples: of the largest, unless it is that one.
    """
    files = [file for file in listing.files if file.size > 0]
    small = [file for file in files if file.size <= WHOLE]
    whole = min(small, key=lambda file: (not file.lfs, file.size, file.path), default=None)
    large = max(files, key=lambda file: (file.size, file.path), default=None)
    return whole, None if large == whole else large


def liars(answers: Mapping[str, Hashable], authority: str) -> dict[str, str]:
    """
    Who of those that sent *answers*, by URL, is wrong, and why: those whom the most contradict.

    Where as many say one thing as another, the one at *authority* is believed, and without it nobody.
    """
    votes = Counter(answers.values())
    if len(votes) < 2:  # noqa: PLR2004  # all say the same
        return {}
    (right, most), (_, others) = votes.most_common(2)
    why = f"are not what {most} others send"
    if most == others:
        if authority not in answers:
            return dict.fromkeys(answers, f"differ between {_names(answers)}, and nobody else can decide")
        right, why = answers[authority], "are not what the authority sends"
    return {url: why for url, sent in answers.items() if sent != right}


def _names(urls: Iterable[str]) -> str:
    return " and ".join(sorted(urls))
