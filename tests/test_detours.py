"""Where redirects led, and for how long that is good."""

from __future__ import annotations

import pytest

from ci_modelcache.sources.detours import Detours, expiry
from tests.parts.clocks import Clock

NOON = 1_735_732_800.0
"""2025-01-01 12:00:00 UTC, in seconds since the epoch."""


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("", 330),
        ("Expires=1735736400&Signature=s&Key-Pair-Id=k", 3600),
        ("Expires=soon", 330),
        ("X-Amz-Date=20250101T115900Z&X-Amz-Expires=600", 540),
        ("X-Amz-Expires=600", 600),
        ("X-Amz-Date=yesterday&X-Amz-Expires=600", 600),
        ("X-Goog-Date=20250101T120000Z&X-Goog-Expires=604800", 604_800),
        ("X-Amz-Expires=-5", 330),
        ("X-Amz-Date=20250101T100000Z&X-Amz-Expires=60", -7140),
    ],
)
def test_the_end_of_a_signed_address_is_read_from_it(query: str, seconds: float) -> None:
    assert expiry(f"https://cdn.example/x?{query}", now=NOON) == NOON + seconds


@pytest.mark.parametrize(
    ("query", "kept", "gone"),
    [("", 299, 301), ("X-Amz-Expires=100", 69, 71), ("X-Amz-Expires=86400", 899, 901), ("Expires=1", None, 0)],
)
def test_an_address_is_kept_until_a_little_before_its_end(query: str, kept: float | None, gone: float) -> None:
    clock = Clock()
    clock.now = NOON
    detours = Detours(now=clock)
    detours.learn("a", f"https://cdn.example/x?{query}")
    if kept is not None:
        clock.now = NOON + kept
        assert detours.find("a") == f"https://cdn.example/x?{query}"
    clock.now = NOON + gone
    assert detours.find("a") is None


def test_what_is_forgotten_is_not_found() -> None:
    detours = Detours(now=Clock())
    detours.learn("a", "https://cdn.example/x")
    detours.forget("a")
    detours.forget("b")
    assert detours.find("a") is None


def test_no_more_than_some_are_kept_and_those_that_are_used_stay() -> None:
    detours = Detours(now=Clock(), most=2)
    detours.learn("a", "https://cdn.example/a")
    detours.learn("b", "https://cdn.example/b")
    assert detours.find("a")
    detours.learn("c", "https://cdn.example/c")
    assert [detours.find(key) is None for key in "abc"] == [False, True, False]


def test_a_remembered_address_does_not_show_itself() -> None:
    detours = Detours(now=Clock())
    detours.learn("a", "https://cdn.example/x?Signature=geheim")
    assert "geheim" not in repr(vars(detours))
