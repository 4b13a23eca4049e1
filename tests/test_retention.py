"""Which snapshots of a store stay, and why: the policy, without any store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.ref import RepoType, SnapshotId
from ci_modelcache.model.retention import DAY, Holding, Policy, Why, decide, size_of
from ci_modelcache.model.size import parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 1_800_000_000.0
LONG_AGO = 100.0


def holding(
    name: str = "org/name",
    *,
    commit: int = 0,
    days: float = LONG_AGO,
    used: float | None = None,
    blobs: str = "a",
    selection: str = "all",
    held: str = "",
) -> Holding:
    """A snapshot published so many *days* ago and *used* so many days ago; each letter of *blobs* is a blob of 100 bytes."""
    return Holding(
        SnapshotId("huggingface.co", RepoType.MODEL, name, f"{commit:040x}", selection),
        NOW - days * DAY,
        {Digest.of(letter.encode()): 100 for letter in blobs},
        used=None if used is None else NOW - used * DAY,
        pinned=held == "pinned",
        locked=held == "locked",
    )


def reasons(holdings: Sequence[Holding], policy: Policy) -> list[Why]:
    return [one.why for one in decide(holdings, policy, now=NOW)]


def test_without_a_rule_nothing_goes_however_old_it_is() -> None:
    assert Policy().is_empty
    assert reasons([holding(), holding(commit=1)], Policy()) == [Why.UNRULED, Why.UNRULED]


def test_what_was_neither_used_nor_published_in_the_days_to_keep_goes() -> None:
    policy = Policy(keep_for=30 * DAY)
    given = [holding(days=29), holding(days=31), holding(days=100, used=29), holding(days=100, used=40)]
    assert reasons(given, policy) == [Why.USED, Why.UNUSED, Why.USED, Why.UNUSED]


def test_a_use_counts_until_the_end_of_its_day_as_only_the_first_of_a_day_is_noted() -> None:
    policy = Policy(keep_for=30 * DAY)
    assert reasons([holding(used=30.9), holding(used=31.1)], policy) == [Why.USED, Why.UNUSED]


def test_the_last_commits_are_counted_for_each_repository_with_all_their_parts() -> None:
    given = [
        holding(commit=1, days=50),
        holding(commit=2, days=40),
        holding(commit=2, days=90, selection="0123456789abcdef"),
        holding(commit=3, days=30),
        holding("org/other", commit=1, days=99),
    ]
    assert reasons(given, Policy(keep_last=2)) == [Why.UNUSED, Why.LAST, Why.LAST, Why.LAST, Why.LAST]


def test_what_one_rule_keeps_stays_whatever_the_others_say() -> None:
    given = [holding(commit=1, days=50, used=2), holding(commit=2, days=40), holding(commit=3, days=41)]
    assert reasons(given, Policy(keep_for=30 * DAY, keep_last=1)) == [Why.USED, Why.LAST, Why.UNUSED]


def test_pins_locks_and_youth_are_stronger_than_every_rule() -> None:
    given = [holding(held="pinned"), holding(held="locked"), holding(days=6.9), holding(days=7.1)]
    assert reasons(given, Policy(keep_for=DAY)) == [Why.PINNED, Why.LOCKED, Why.YOUNG, Why.UNUSED]
    spread = [holding(blobs="ab", held="pinned"), holding(blobs="cd", held="locked"), holding(blobs="ef", days=1)]
    assert reasons([*spread, holding(blobs="gh")], Policy(max_size=1))[:3] == [Why.PINNED, Why.LOCKED, Why.YOUNG]


def test_a_snapshot_from_the_future_is_young() -> None:
    assert reasons([holding(days=-400)], Policy(keep_for=DAY, max_size=1)) == [Why.YOUNG]


def test_what_was_used_least_recently_goes_until_the_rest_fits() -> None:
    given = [holding(blobs="a", used=20), holding(blobs="b", used=40), holding(blobs="c", used=30), holding(blobs="d")]
    assert reasons(given, Policy(max_size=400)) == [Why.UNRULED] * 4
    assert reasons(given, Policy(max_size=399)) == [Why.UNRULED, Why.UNRULED, Why.UNRULED, Why.OVERSIZE]
    assert reasons(given, Policy(max_size=250)) == [Why.UNRULED, Why.OVERSIZE, Why.UNRULED, Why.OVERSIZE]


def test_a_size_is_stronger_than_days_and_counts_which_go_first() -> None:
    given = [
        holding(commit=1, blobs="ab", used=1),
        holding(commit=2, blobs="cd", used=2),
        holding(commit=3, blobs="ef"),
    ]
    policy = Policy(keep_for=30 * DAY, max_size=200)
    assert reasons(given, policy) == [Why.USED, Why.OVERSIZE, Why.UNUSED]


def test_a_blob_that_several_have_counts_once_and_what_frees_nothing_stays() -> None:
    given = [holding(blobs="a", used=90), holding(blobs="ab", used=10), holding(blobs="c", used=50)]
    assert size_of(given) == 300
    assert reasons(given, Policy(max_size=200)) == [Why.UNRULED, Why.UNRULED, Why.OVERSIZE]


def test_two_that_share_all_they_have_go_together() -> None:
    given = [holding(blobs="a", used=90), holding(blobs="a", used=80), holding(blobs="b", used=1)]
    assert reasons(given, Policy(max_size=100)) == [Why.OVERSIZE, Why.OVERSIZE, Why.UNRULED]


_HOLDINGS = st.lists(
    st.builds(
        holding,
        st.sampled_from(["org/name", "org/other"]),
        commit=st.integers(0, 4),
        days=st.floats(0, 60),
        used=st.none() | st.floats(0, 60),
        blobs=st.text("abcdef", max_size=4),
        held=st.sampled_from(["", "", "", "pinned", "locked"]),
    ),
    max_size=8,
)
_POLICIES = st.builds(
    Policy,
    keep_for=st.none() | st.floats(DAY, 60 * DAY),
    keep_last=st.none() | st.integers(1, 3),
    max_size=st.none() | st.integers(1, 600),
)


@given(_HOLDINGS, _POLICIES)
def test_whatever_the_policy_what_is_protected_stays_and_no_room_is_made_in_vain(
    given: list[Holding], policy: Policy
) -> None:
    verdicts = decide(given, policy, now=NOW)
    assert [one.holding for one in verdicts] == given
    stays = [one.holding for one in verdicts if not one.goes]
    for one in verdicts:
        protected = one.holding.pinned or one.holding.locked or NOW - one.holding.published < policy.min_age
        assert not (protected and one.goes)
        if one.why is Why.OVERSIZE:
            # Without it, it would not have fitted; and it frees something.
            assert policy.max_size is not None
            assert size_of([*stays, one.holding]) > size_of(stays)
            assert size_of(given) > policy.max_size
    if policy.max_size is not None and size_of(stays) > policy.max_size:
        assert all(
            one.why in {Why.PINNED, Why.LOCKED, Why.YOUNG} or _frees_nothing(one.holding, stays)
            for one in verdicts
            if not one.goes
        )
    if policy.is_empty:
        assert stays == given


def _frees_nothing(one: Holding, stays: list[Holding]) -> bool:
    return size_of(each for each in stays if each is not one) == size_of(stays)


# --- sizes as people write them


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500G", 500 * 10**9),
        ("500GB", 500 * 10**9),
        ("1.5TB", 15 * 10**11),
        ("64MiB", 64 << 20),
        ("64Mi", 64 << 20),
        ("1900 M", 1900 * 10**6),
        ("10kB", 10_000),
        ("12345", 12345),
        ("1B", 1),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "5X", "5Gb", "1e9", "0", "0.1B", "500 G B", "५G", "1,5G"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(text)
    assert "500G" in str(caught.value.hint)
