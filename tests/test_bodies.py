"""What ``Content-Range`` says, and what is asked for: for all numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.model.listing import ListedFile
from ci_modelcache.sources.bodies import Part, Span

OFFSETS = st.integers(0, 10**18)


@given(OFFSETS, OFFSETS, st.one_of(st.none(), OFFSETS))
def test_a_range_is_read_as_it_was_written_and_only_when_it_makes_sense(
    first: int, last: int, total: int | None
) -> None:
    found = Span.parse(f"bytes {first}-{last}/{'*' if total is None else total}")
    if first <= last and (total is None or last < total):
        assert found == Span(first, last + 1, total)
    else:
        assert found is None


@given(st.text())
def test_no_text_breaks_the_reading_of_a_range(text: str) -> None:
    found = Span.parse(text)
    assert found is None or found.start < found.stop


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes", "bytes */5", "bytes 1-2", "bytes=1-2/5", "items 1-2/5", "bytes 1-2/5, 3-4/5", "bytes -2/5",
        "bytes \u0661-\u0662/\u0665", "bytes 1-2/5x", "bytes 1-2/" + "9" * 5000, "bytes +1-2/5", "bytes 1_0-20/50",
    ],
)  # fmt: skip  # a table
def test_what_is_no_range_of_bytes_is_none(text: str) -> None:
    assert Span.parse(text) is None


def test_case_and_spaces_do_not_matter() -> None:
    assert Span.parse(" Bytes  1-2/5 ") == Span(1, 3, 5)


@given(st.integers(0, 1000), st.integers(0, 1000), st.one_of(st.none(), st.integers(0, 2000)))
def test_a_part_asks_for_no_byte_outside_of_its_file(size: int, start: int, stop: int | None) -> None:
    part = Part(ListedFile("a", size, "0" * 40, None), "reading a", start, stop)
    asked = part.headers.get("Range")
    if part.empty or start >= size:
        return
    if asked is None:
        assert (start, part.end) == (0, size)
        return
    first, last = asked.removeprefix("bytes=").split("-")
    assert int(first) == start
    assert (int(last) + 1 if last else size) == part.end == min(size, size if stop is None else stop)
