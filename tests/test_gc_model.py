"""The protocol loses nothing in any order of any steps, and each part of it is needed: explored to the last state."""

from __future__ import annotations

import pytest

from tests.parts.gc_model import BAD, SAFE


@pytest.mark.parametrize("name", SAFE)
def test_nobody_who_was_told_of_success_loses_anything(name: str) -> None:
    outcome = SAFE[name].explore()
    assert outcome.is_safe, str(outcome)
    assert outcome.states > 1000


@pytest.mark.parametrize("name", BAD)
def test_without_that_part_somebody_does(name: str) -> None:
    outcome = BAD[name].explore()
    assert not outcome.is_safe
    assert len(outcome.way) >= 5, str(outcome)
