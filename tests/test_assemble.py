"""One file from several connections: who brings what, and that its bytes come out once, in order, and right."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ci_modelcache.errors import BrokenOff, DeadlineExceeded, Rewritten, Unavailable
from ci_modelcache.transfer import assemble as module
from ci_modelcache.transfer.assemble import SPLIT, Claim, Claims, assemble
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.partial import Partial
from tests.parts.upstreams import weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.transfer.assemble import Lanes

MIB = 1024 * 1024


@contextmanager
def claims_of(folder: Path, size: int) -> Iterator[Claims]:
    with Partial.opened(folder, "name", size) as partial:
        yield Claims(partial)


class Sparse:
    """As much of a `Partial` as `Claims` looks at, without a disk: what has arrived of *size* bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = 0
        self.have: list[tuple[int, int]] = []

    def arrived(self, start: int, stop: int) -> None:
        self.have = sorted([*self.have, (start, stop)])

    def gaps(self) -> list[tuple[int, int]]:
        found, offset = [], 0
        for start, stop in self.have:
            if start > offset:
                found.append((offset, start))
            offset = max(offset, stop)
        return [*found, (offset, self.size)] if offset < self.size else found


class Taking(RuleBasedStateMachine):
    """Connections that take, bring, end and fail, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.partial = Sparse(61 * MIB + 7)
        self.claims = Claims(self.partial)  # type: ignore[arg-type]  # as much of one as is looked at
        self.held: list[Claim] = []

    @rule(span=st.integers(1, 40 * MIB), sharers=st.integers(1, 16))
    def take(self, span: int, sharers: int) -> None:
        before = {id(claim): claim.left for claim in self.held}
        longest = max(before.values(), default=0)
        claim = self.claims.take(span, sharers=sharers)
        if claim is None:
            assert longest < 2 * SPLIT, "there was something worth a connection"
            return
        assert claim.start < claim.stop
        assert claim.offset == claim.start
        for other in self.held:
            if other.left < before[id(other)]:
                # Stolen: half of what the longest had left, and enough for each of the two to be worth a connection.
                assert before[id(other)] == longest
                assert abs(other.left - claim.left) <= 1
                assert min(other.left, claim.left) >= MIB
        self.held.append(claim)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), count=st.integers(1, 20 * MIB))
    def bring(self, which: int, count: int) -> None:
        claim = self.held[which % len(self.held)]
        offset = min(claim.stop, claim.offset + count)
        self.partial.arrived(claim.offset, offset)
        assert self.claims.arrived(claim, offset) == (offset < claim.stop)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        self.claims.release(self.held.pop(which % len(self.held)))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def extend(self, which: int) -> None:
        claim = self.held[which % len(self.held)]
        stop = claim.stop
        assert self.claims.extend(claim) == (claim.stop > stop)

    @invariant()
    def what_is_to_come_is_claimed_once(self) -> None:
        spans = sorted((claim.offset, claim.stop) for claim in self.held if claim.left)
        for (_, stop), (start, _) in itertools.pairwise(spans):
            assert stop <= start
        for start, stop in spans:
            assert any(gap <= start and stop <= end for gap, end in self.partial.gaps()), "claimed, and here already"

    @invariant()
    def nothing_is_left_over_when_nobody_is_at_work(self) -> None:
        if not self.held:
            assert self.claims.worth_more() == bool(self.partial.gaps())


Taking.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestClaimsNeverOverlap = Taking.TestCase


def test_the_longest_range_at_work_is_halved_for_who_has_nothing_to_do(tmp_path: Path) -> None:
    with claims_of(tmp_path, 32 * MIB) as claims:
        first = claims.take(32 * MIB)
        assert first is not None
        claims.arrived(first, 8 * MIB)
        second = claims.take(32 * MIB)
        assert second is not None
        assert (first.stop, second.start, second.stop) == (20 * MIB, 20 * MIB, 32 * MIB)


def test_a_rest_that_is_too_small_for_a_connection_of_its_own_is_left_to_who_brings_it(tmp_path: Path) -> None:
    with claims_of(tmp_path, 2 * SPLIT - 1) as claims:
        first = claims.take(SPLIT)
        assert first is not None
        assert first.stop == 2 * SPLIT - 1
        with claims.partial.writing(0, "a") as pen:
            pen.write(bytes(first.stop - 2 * MIB + 1))
        claims.arrived(first, pen.offset)
        assert claims.take(SPLIT) is None
        assert not claims.worth_more()


def test_each_of_many_connections_is_given_its_share_and_no_more(tmp_path: Path) -> None:
    with claims_of(tmp_path, 64 * MIB) as claims:
        taken = [claims.take(64 * MIB, sharers=8) for _ in range(8)]
        lengths = [claim.left for claim in taken if claim is not None]
        assert len(lengths) == 8
        assert max(lengths) <= 8 * MIB
        assert min(lengths) >= SPLIT


def test_what_a_claim_did_not_bring_is_free_again(tmp_path: Path) -> None:
    with claims_of(tmp_path, 2 * SPLIT) as claims:
        first = claims.take(2 * SPLIT)
        assert first is not None
        with claims.partial.writing(0, "a") as pen:
            pen.write(bytes(100))
        claims.arrived(first, 100)
        claims.release(first)
        again = claims.take(2 * SPLIT)
        assert again is not None
        assert (again.start, again.stop) == (100, 2 * SPLIT)


# --- the whole of it


class Crowd:
    """
    `Lanes` with *data*, at most *most* at a time; *before* is called with the partial and the offset before every piece.
    """

    def __init__(
        self, data: bytes, *, most: int = 4, before: Callable[[Partial, int], object] = lambda _, __: None
    ) -> None:
        self.data = data
        self.most = most
        self.now = 0
        self.highest = 0
        self.sent = 0
        self._before = before
        self._lock = threading.Lock()

    def bring(self, claims: Claims, *, alone: Callable[[], bool], stopping: threading.Event) -> None:  # noqa: ARG002  # the protocol's
        with self._lock:
            self.now += 1
            self.highest = max(self.highest, self.now)
        try:
            while not stopping.is_set():
                claim = claims.take(SPLIT)
                if claim is None:
                    return
                try:
                    self._bring(claim, claims, stopping)
                finally:
                    claims.release(claim)
        finally:
            with self._lock:
                self.now -= 1

    def _bring(self, claim: Claim, claims: Claims, stopping: threading.Event) -> None:
        with claims.partial.writing(claim.start, "crowd") as pen:
            while not stopping.is_set():
                self._before(claims.partial, pen.offset)
                piece = self.data[pen.offset : min(claim.stop, pen.offset + 65536)]
                with self._lock:
                    self.sent += len(piece)
                pen.write(piece)
                if not claims.arrived(claim, pen.offset):
                    return

    def room(self) -> bool:
        return self.now < self.most


def read(partial: Partial, lanes: Lanes, seconds: float = 30) -> bytes:
    return b"".join(assemble(partial, lanes, deadline=Deadline(seconds), doing="testing"))


def collect(pieces: Iterator[bytes], into: bytearray) -> None:
    for piece in pieces:
        into += piece


@pytest.mark.parametrize("size", [0, 1, SPLIT, SPLIT + 1, 5 * SPLIT + 12345])
def test_every_byte_comes_out_once_and_in_order(size: int, tmp_path: Path) -> None:
    data = weights(size)
    crowd = Crowd(data)
    with Partial.opened(tmp_path, "name", size) as partial:
        assert read(partial, crowd) == data
    assert crowd.sent == size
    assert crowd.highest <= 4


def test_what_an_earlier_run_received_is_not_brought_again(tmp_path: Path) -> None:
    data = weights(3 * SPLIT)
    with Partial.opened(tmp_path, "name", len(data)) as partial, partial.writing(SPLIT, "earlier") as pen:
        pen.write(data[SPLIT : 2 * SPLIT])
    crowd = Crowd(data)
    with Partial.opened(tmp_path, "name", len(data)) as partial:
        assert read(partial, crowd) == data
    assert crowd.sent == 2 * SPLIT


def test_a_failure_is_raised_after_what_arrived_before_it(tmp_path: Path) -> None:
    data = weights(3 * SPLIT)

    def fail(_partial: Partial, offset: int) -> None:
        if offset >= SPLIT + 65536:
            msg = "all sources are gone"
            raise Unavailable(msg)

    seen = bytearray()
    with Partial.opened(tmp_path, "name", len(data)) as partial:
        pieces = assemble(partial, Crowd(data, most=1, before=fail), deadline=Deadline(30), doing="testing")
        with pytest.raises(Unavailable, match="all sources are gone"):
            collect(pieces, seen)
        assert bytes(seen) == data[: SPLIT + 65536]
        assert partial.frontier == SPLIT + 65536


def test_bytes_that_were_read_and_then_forgotten_are_read_again_by_the_reader_not_passed_over(tmp_path: Path) -> None:
    data = weights(3 * SPLIT)
    told = threading.Event()

    def pause(_partial: Partial, offset: int) -> None:
        if offset >= 2 * SPLIT and not told.is_set():
            told.wait(20)

    with Partial.opened(tmp_path, "name", len(data)) as partial:
        pieces = assemble(partial, Crowd(data, most=1, before=pause), deadline=Deadline(30), doing="testing")
        next(pieces)
        partial.forget(0, 10)
        told.set()
        with pytest.raises(Rewritten):
            list(pieces)
        assert read(partial, Crowd(data)) == data


def test_the_deadline_ends_it_although_nobody_brings_anything(tmp_path: Path) -> None:
    held = threading.Event()
    crowd = Crowd(weights(2 * SPLIT), before=lambda _, __: held.wait(20))
    try:
        with Partial.opened(tmp_path, "name", 2 * SPLIT) as partial, pytest.raises(DeadlineExceeded):
            read(partial, crowd, seconds=0.3)
    finally:
        held.set()


def test_connections_end_when_the_reader_does(tmp_path: Path) -> None:
    data = weights(8 * SPLIT)
    crowd = Crowd(data)
    with Partial.opened(tmp_path, "name", len(data)) as partial:
        pieces = assemble(partial, crowd, deadline=Deadline(30), doing="testing")
        next(pieces)
        pieces.close()
        assert crowd.now == 0


def test_a_file_of_one_part_takes_no_thread_and_its_failure_comes_as_it_is(tmp_path: Path) -> None:
    names: list[str] = []

    def note(_partial: Partial, _offset: int) -> None:
        names.append(threading.current_thread().name)
        msg = "broken"
        raise BrokenOff(msg)

    with Partial.opened(tmp_path, "name", SPLIT) as partial, pytest.raises(BrokenOff, match="broken"):
        read(partial, Crowd(weights(SPLIT), before=note))
    assert names == [threading.current_thread().name]
    assert module.SPLIT == 4 * MIB
