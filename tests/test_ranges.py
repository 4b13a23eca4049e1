"""The books of one file that comes in ranges, what proves a range, and how many connections there are."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import DigestMismatch
from ci_modelcache.model.digest import LEAF_SIZE
from ci_modelcache.transfer.adapting import MOST, START, WINDOW, Adapting
from ci_modelcache.transfer.leafbyleaf import LeafByLeaf
from ci_modelcache.transfer.ranges import Ranges
from ci_modelcache.verbs.step import Step
from tests.parts.clocks import Clock

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 3 * LEAF_SIZE + 7
DATA = os.urandom(LEAF_SIZE + 10)
LEAVES = [hashlib.sha256(DATA[:LEAF_SIZE]).digest(), hashlib.sha256(DATA[LEAF_SIZE:]).digest()]


def all_taken(ranges: Ranges, span: int) -> list[tuple[int, int]]:
    found = []
    while ranges.is_wanted:
        found.append(ranges.take(span))
    return found


def test_ranges_end_with_leaves_and_with_the_file() -> None:
    starts = [0, LEAF_SIZE, 2 * LEAF_SIZE, 3 * LEAF_SIZE, SIZE]
    assert all_taken(Ranges(SIZE), LEAF_SIZE) == list(pairwise(starts))


def test_longer_ranges_have_several_leaves() -> None:
    assert all_taken(Ranges(SIZE), 2 * LEAF_SIZE) == [(0, 2 * LEAF_SIZE), (2 * LEAF_SIZE, SIZE)]


def test_of_an_empty_file_nothing_is_wanted() -> None:
    assert not Ranges(0).is_wanted


def test_the_rest_of_a_range_that_broke_off_is_the_next_to_take() -> None:
    ranges = Ranges(SIZE)
    ranges.take(LEAF_SIZE)
    ranges.want(1000, LEAF_SIZE)
    assert ranges.take(LEAF_SIZE) == (1000, LEAF_SIZE)
    assert ranges.take(LEAF_SIZE) == (LEAF_SIZE, 2 * LEAF_SIZE)


def test_what_has_come_can_be_hashed_as_far_as_nothing_is_missing() -> None:
    ranges = Ranges(SIZE)
    ranges.arrive(LEAF_SIZE, 2 * LEAF_SIZE)
    assert ranges.arrived == 0
    ranges.arrive(0, LEAF_SIZE)
    assert (ranges.hashed, ranges.arrived) == (0, 2 * LEAF_SIZE)
    ranges.hash_to(LEAF_SIZE)
    assert (ranges.hashed, ranges.arrived) == (LEAF_SIZE, 2 * LEAF_SIZE)


def test_what_came_while_others_were_hashing_is_not_forgotten() -> None:
    ranges = Ranges(SIZE)
    ranges.arrive(0, LEAF_SIZE)
    ranges.arrive(LEAF_SIZE, 2 * LEAF_SIZE)
    assert ranges.arrived == 2 * LEAF_SIZE
    ranges.arrive(2 * LEAF_SIZE, SIZE)
    ranges.hash_to(2 * LEAF_SIZE)
    assert ranges.arrived == SIZE


def test_what_is_wrong_is_wanted_again_alone_and_hashing_begins_anew() -> None:
    ranges = Ranges(SIZE)
    all_taken(ranges, LEAF_SIZE)
    ranges.hash_to(SIZE)
    ranges.again([(LEAF_SIZE, 2 * LEAF_SIZE)])
    assert (ranges.hashed, ranges.arrived) == (0, LEAF_SIZE)
    assert all_taken(ranges, LEAF_SIZE) == [(LEAF_SIZE, 2 * LEAF_SIZE)]
    ranges.arrive(LEAF_SIZE, 2 * LEAF_SIZE)
    assert ranges.arrived == SIZE


@pytest.mark.parametrize("piece", [1 << 20, LEAF_SIZE, len(DATA)])
def test_leaves_prove_what_they_cover(piece: int) -> None:
    proof = LeafByLeaf(0, LEAVES, len(DATA))
    for at in range(0, len(DATA), piece):
        proof.update(DATA[at : at + piece])
    assert (proof.proven, proof.wrong) == (len(DATA), None)


def test_a_leaf_that_is_wrong_is_named_and_what_was_before_it_is_proven() -> None:
    proof = LeafByLeaf(0, LEAVES, len(DATA))
    proof.update(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert (proof.proven, proof.wrong) == (LEAF_SIZE, (LEAF_SIZE, len(DATA)))
    error = proof.mismatch("model.bin")
    assert isinstance(error, DigestMismatch)
    assert error.expected == LEAVES[1].hex()
    assert f"model.bin, bytes {LEAF_SIZE} to {len(DATA)}" in error.message


def test_half_a_leaf_proves_nothing() -> None:
    proof = LeafByLeaf(LEAF_SIZE, LEAVES, len(DATA))
    proof.update(DATA[LEAF_SIZE:-1])
    assert proof.proven == LEAF_SIZE


class Link:
    """A store that gives *each* bytes a second to every connection, up to *all* of them together."""

    def __init__(self, each: float, total: float, **options: bool) -> None:
        self.clock = Clock()
        self.adapting = Adapting(clock=self.clock, **options)
        self._each, self._total = each, total

    def run(self, windows: int) -> list[int]:
        """How many connections there were after each window."""
        found = []
        for _ in range(windows):
            rate = min(self._total, self._each * self.adapting.limit)
            self.clock.now += 1.01 * WINDOW
            self.adapting.moved(int(rate * WINDOW))
            self.adapting.look()
            found.append(self.adapting.limit)
        return found


def test_connections_grow_as_long_as_more_bring_more() -> None:
    assert Link(1e6, 1e9).run(8)[-1] == MOST


def test_connections_that_bring_nothing_are_given_up_again() -> None:
    found = Link(1e6, START * 1e6).run(6)
    assert max(found) <= START + START // 2
    assert found[-1] == START


def test_a_number_that_somebody_asked_for_is_kept() -> None:
    adapting = Adapting(3, fixed=True)
    assert adapting.limit == 3


def test_a_refusal_halves_the_connections_and_doubles_the_ranges_once_for_all_that_are_refused_together() -> None:
    link = Link(1e6, 1e9)
    for _ in range(5):
        link.adapting.refused()
    assert (link.adapting.limit, link.adapting.span) == (START // 2, 2 * LEAF_SIZE)


def test_there_is_one_connection_left_however_often_a_store_refuses() -> None:
    link = Link(1e6, 1e9)
    for _ in range(20):
        link.clock.now += 2 * WINDOW
        link.adapting.refused()
    assert (link.adapting.limit, link.adapting.span) == (1, 4 * LEAF_SIZE)


def test_after_a_refusal_connections_grow_again() -> None:
    link = Link(1e6, 1e9)
    link.clock.now += 2 * WINDOW
    link.adapting.refused()
    assert link.run(30)[-1] == MOST


def test_a_step_has_the_connections_that_somebody_asked_for_or_as_many_as_help(tmp_path: Path) -> None:
    assert Step(tmp_path, workers=5).adapting().limit == 5
    assert Step(tmp_path, workers=5, most=MOST).adapting().limit == START
