"""A few of the downloads of ``python -m tests.soak``, which makes a hundred."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak import soak, the_model

if TYPE_CHECKING:
    from pathlib import Path


def test_every_download_of_the_real_model_succeeds_through_mirrors_that_cut_connections(tmp_path: Path) -> None:
    tally = soak(the_model(), tmp_path, times=5)
    assert tally.failures == [], tally
    assert tally.causes["broken-off"] > 0, "nothing was cut"
