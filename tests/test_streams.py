"""A stream that breaks off is resumed from the last byte, for as long as it makes progress and the deadline allows."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import AccessDenied, DeadlineExceeded, Unavailable
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.transfer.streams import read_through
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = bytes(range(256)) * 4


class Source:
    """
    Sends *data*; each opening takes the next of *breaks*: how many bytes it sends before it breaks, None for all.

    A negative number refuses to open. After the last one every opening is whole.
    """

    def __init__(self, data: bytes, *breaks: int | None, chunk: int = 7, ends_quietly: bool = False) -> None:
        self.data = data
        self.breaks = list(breaks)
        self.chunk = chunk
        self.ends_quietly = ends_quietly
        self.starts: list[int] = []
        self.open = 0

    @contextmanager
    def __call__(self, start: int, /) -> Iterator[Iterator[bytes]]:
        assert self.open == 0, "the attempt before was not closed"
        self.starts.append(start)
        limit = self.breaks.pop(0) if self.breaks else None
        if limit is not None and limit < 0:
            msg = "connection refused"
            raise Unavailable(msg)
        self.open += 1
        try:
            yield self._chunks(start, limit)
        finally:
            self.open -= 1

    def _chunks(self, start: int, limit: int | None) -> Iterator[bytes]:
        rest = self.data[start:] if limit is None else self.data[start : start + limit]
        for at in range(0, len(rest), self.chunk):
            yield rest[at : at + self.chunk]
            yield b""
        if limit is not None and not self.ends_quietly:
            msg = "connection reset"
            raise Unavailable(msg)


def policy(clock: Clock, *, attempts: int = 3, seconds: float | None = None) -> RetryPolicy:
    def longest(_low: float, high: float) -> float:
        return high

    deadline = Deadline(seconds, clock=clock)
    return RetryPolicy(attempts=attempts, base=1.0, deadline=deadline, sleep=clock.sleep, jitter=longest)


def read(source: Source, *, size: int | None = None, clock: Clock | None = None, attempts: int = 3) -> bytes:
    retry = policy(clock or Clock(), attempts=attempts)
    return b"".join(read_through(source, len(source.data) if size is None else size, retry, what="model.bin"))


@given(
    data=st.binary(max_size=300),
    breaks=st.lists(st.integers(-1, 100) | st.none(), max_size=6),
    chunk=st.integers(1, 50),
    surplus=st.binary(max_size=20),
    ends_quietly=st.booleans(),
)
def test_wherever_it_breaks_exactly_the_right_bytes_come_out(
    data: bytes, breaks: list[int | None], chunk: int, surplus: bytes, *, ends_quietly: bool
) -> None:
    source = Source(data + surplus, *breaks, chunk=chunk, ends_quietly=ends_quietly)
    assert read(source, size=len(data), attempts=10) == data
    assert source.open == 0


def test_a_truncated_body_is_resumed_from_the_last_byte() -> None:
    clock, source = Clock(), Source(DATA, 100, ends_quietly=True)
    assert read(source, clock=clock) == DATA
    assert source.starts == [0, 100]
    assert clock.slept == [1.0]


def test_an_empty_file_asks_nobody() -> None:
    source = Source(b"surplus")
    assert read(source, size=0) == b""
    assert source.starts == []


def test_what_comes_after_the_end_is_cut_off() -> None:
    assert read(Source(DATA, chunk=1000), size=10) == DATA[:10]


def test_failures_are_counted_since_the_last_byte() -> None:
    clock, source = Clock(), Source(DATA, *[20] * 40)
    assert read(source, clock=clock, attempts=2) == DATA
    assert len(source.starts) > 40
    assert set(clock.slept) == {1.0}


def test_it_gives_up_when_no_byte_comes_any_more() -> None:
    clock, source = Clock(), Source(DATA, 50, 0, -1, 0)
    with pytest.raises(Unavailable, match="connection re") as caught:
        read(source, clock=clock, attempts=3)
    assert source.starts == [0, 50, 50]
    assert clock.slept == [1.0, 2.0]
    assert caught.value.__notes__ == ["gave up reading model.bin after 3 attempts"]


def test_a_body_that_ends_early_for_ever_says_how_far_it_came() -> None:
    source = Source(DATA, 50, 0, 0, ends_quietly=True)
    with pytest.raises(Unavailable, match=r"^model.bin: the stream ended at 50 of 1024 bytes\n"):
        read(source, attempts=3)


def test_what_will_not_pass_is_not_tried_again() -> None:
    starts: list[int] = []

    @contextmanager
    def denied(start: int, /) -> Iterator[Iterator[bytes]]:
        starts.append(start)
        if start:
            msg = "the token expired"
            raise AccessDenied(msg)
        yield iter([b"abc"])

    with pytest.raises(AccessDenied):
        list(read_through(denied, 10, policy(Clock()), what="model.bin"))
    assert starts == [0, 3]


def _trickle(clock: Clock, piece: bytes) -> Callable[[int], Iterator[bytes]]:
    def chunks(_start: int) -> Iterator[bytes]:
        while True:
            clock.now += 1
            yield piece

    return chunks


@pytest.mark.parametrize("piece", [b"x", b""], ids=["a-byte-a-second", "nothing-at-all"])
def test_a_trickle_ends_at_the_deadline(piece: bytes) -> None:
    clock, closed = Clock(), []

    @contextmanager
    def trickle(start: int, /) -> Iterator[Iterator[bytes]]:
        yield _trickle(clock, piece)(start)
        closed.append(start)

    begun = clock.now

    def consume() -> None:
        for _ in read_through(trickle, 10_000, policy(clock, seconds=60), what="model.bin"):
            pass

    with pytest.raises(DeadlineExceeded, match=r"passed while reading model.bin"):
        consume()
    assert clock.now - begun <= 61


def test_nothing_is_opened_after_the_deadline() -> None:
    clock, source = Clock(), Source(DATA)
    retry = policy(clock, seconds=5)
    clock.sleep(6)
    with pytest.raises(DeadlineExceeded):
        list(read_through(source, len(DATA), retry, what="model.bin"))
    assert source.starts == []


def test_a_reader_that_stops_early_leaves_nothing_open() -> None:
    source = Source(DATA)
    stream = read_through(source, len(DATA), policy(Clock()), what="model.bin")
    assert next(stream) == DATA[:7]
    assert source.open == 1
    stream.close()
    assert source.open == 0
