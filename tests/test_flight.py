"""What becomes of one file on its way when all ends, and when those who vouch for it are wrong."""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import define, field

from ci_modelcache.model.digest import LEAF_SIZE, Digest, Expected, Fingerprint
from ci_modelcache.transfer import flight
from ci_modelcache.transfer.adapting import Adapting
from ci_modelcache.transfer.flight import Flight
from ci_modelcache.transfer.land import Landing
from ci_modelcache.transfer.progress import Silent
from ci_modelcache.transfer.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pytest

    from ci_modelcache.errors import ModelCacheError

DATA = b"what is right"
OTHER = b"what is other"


class Said:
    """A copy whose answers are *data*, one after the other and the last for ever; *told* is called before the last byte."""

    def __init__(self, *data: bytes, told: Callable[[], object] = lambda: None) -> None:
        self._data = list(data)
        self._told = told

    @contextmanager
    def open(self, start: int, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        data = self._data.pop(0) if len(self._data) > 1 else self._data[0]
        yield self._said(data[start:stop])

    def _said(self, data: bytes) -> Iterator[bytes]:
        yield data[:-1]
        self._told()
        yield data[-1:]


@define
class Bringing:
    """An `Errand` to bring *data* to *folder* from *copies*."""

    folder: Path
    data: bytes
    copies: Iterator[Said]
    leaves: Sequence[bytes] = ()
    trusts_leaves: bool = False
    lists_leaves: bool = False
    begun: Callable[[], object] = lambda: None
    failures: list[ModelCacheError] = field(factory=list)

    @property
    def expected(self) -> Expected:
        return Expected(len(self.data), Digest.of(self.data))

    @property
    def target(self) -> Path:
        return self.folder / "model.bin"

    def start(self) -> bool:
        return False

    def copy(self) -> Said | None:
        return next(self.copies, None)

    def passed_over(self, copy: Said, error: ModelCacheError) -> None:
        del copy
        self.failures.append(error)

    def require_size(self, copy: Said) -> None:
        pass

    def leaf_digests(self) -> Sequence[bytes]:
        return self.leaves

    def landing(self) -> Landing:
        landing = Landing(self.target, len(self.data), mode=0o644, staging=self.folder / "staging")
        self.begun()
        return landing

    def landed(self, target: Path, seen: Fingerprint, copy: Said, *, by_its_leaves: bool) -> None:
        del target, seen, copy, by_its_leaves

    def lost(self, failure: ModelCacheError) -> None:
        raise failure


def flight_of(errand: Bringing, stopping: threading.Event | None = None) -> Flight[Said]:
    return Flight(
        errand,
        changed=threading.Condition(),
        stopping=stopping or threading.Event(),
        retry=RetryPolicy(1),
        progress=Silent(),
        adapting=Adapting(1, fixed=True),
    )


def bring(errand: Bringing) -> None:
    bringing = flight_of(errand)
    first = bringing.open()
    assert first is not None
    bringing.bring(*first)
    while bringing.is_wanted:
        bringing.bring(*bringing.take())
    assert bringing.is_done


def leaf_digests(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[start : start + LEAF_SIZE]).digest() for start in range(0, len(data), LEAF_SIZE)]


def test_what_is_begun_when_nobody_waits_any_more_leaves_nothing(tmp_path: Path) -> None:
    """Whoever was left behind begins a file after all others were given up."""
    stopping = threading.Event()
    errand = Bringing(tmp_path, DATA, iter([Said(DATA)]), begun=stopping.set)
    assert flight_of(errand, stopping).open() is None
    assert list((tmp_path / "staging").iterdir()) == []


def test_who_ends_in_the_middle_leaves_no_byte_unhashed_behind_the_frontier(tmp_path: Path) -> None:
    """Or another, which still proves the file, would call right bytes wrong, and that would be the error that is told."""
    stopping = threading.Event()
    errand = Bringing(tmp_path, DATA, iter([Said(DATA, told=stopping.set)]))
    bringing = flight_of(errand, stopping)
    first = bringing.open()
    assert first is not None
    bringing.bring(*first)
    assert not bringing.is_done
    bringing.bring(len(DATA), len(DATA))
    assert errand.target.read_bytes() == DATA


def test_leaves_of_another_file_do_not_speak_against_the_right_one(tmp_path: Path) -> None:
    right = random.Random(1).randbytes(LEAF_SIZE + 5)
    other = b"x" + right[1:-1] + b"y"
    flipped = other[:-1] + b"z"
    errand = Bringing(tmp_path, right, iter([Said(flipped, flipped, other), Said(right)]), leaf_digests(other))
    bring(errand)
    assert errand.target.read_bytes() == right


def test_a_copy_answers_for_its_own_wrong_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is gone may have had the `id` of a later one."""
    monkeypatch.setattr(flight, "id", lambda _: 0, raising=False)
    bring(Bringing(tmp_path, DATA, iter([Said(OTHER), Said(OTHER, DATA)]), leaf_digests(DATA), trusts_leaves=True))
    assert (tmp_path / "model.bin").read_bytes() == DATA
