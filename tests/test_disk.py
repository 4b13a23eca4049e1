"""Sizes read as disks are sold, and what does not fit is refused before it is begun."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import NoSpace
from ci_modelcache.transfer.disk import format_bytes, require_space, same_disk
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999, "1.0 MB"),
        (13_400_000_000, "13.4 GB"),
        (999_999_999_999, "1.0 TB"),
        (5.5e15, "5500.0 TB"),
        (-2048, "-2.0 kB"),
    ],
)
def test_bytes_are_shown_in_decimal_units(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there" / "yet", 1)
    require_space(tmp_path, 0)


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_difference(tmp_path: Path) -> None:
    need = shutil.disk_usage(tmp_path).total + 10**15
    message = r"^need \S+ TB, have \S+ [kMGT]?B on the disk of .*: \S+ TB too little$"
    with pytest.raises(NoSpace, match=message) as caught:
        require_space(tmp_path / "model", need)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.hint == "free space there, or restore to another disk"
    assert not (tmp_path / "model").exists()


def test_a_file_in_the_way_does_not_hide_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    require_space(tmp_path / "file" / "below", 1)


def test_a_folder_that_may_not_be_searched_does_not_hide_the_disk(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    with unprivileged(closed, mode=0o000):
        require_space(closed / "a" / "b", 1)


def test_two_folders_of_one_disk_are_on_one_disk(tmp_path: Path, tmpfs: Path) -> None:
    assert same_disk(tmp_path / "a", tmp_path / "b" / "c")
    assert not same_disk(tmp_path / "a", tmpfs / "a")
