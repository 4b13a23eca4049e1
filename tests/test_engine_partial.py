"""A half-received file belongs to one writer at a time, and whoever lost it writes nowhere, whatever its name leads to by then."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import Rewritten
from ci_modelcache.transfer.partial import PREFIX, Partial, Revoked, sweep_partials

if TYPE_CHECKING:
    from pathlib import Path

NAME = "0" * 40
A, B = "https://a", "https://b"


def fill(partial: Partial, data: bytes, source: str = A) -> None:
    with partial.writing(0, source) as pen:
        pen.write(data)


@pytest.mark.parametrize("data", [b"", b"right"])
def test_what_has_landed_is_discarded_by_nobody_although_another_of_its_name_has_begun(
    tmp_path: Path, data: bytes
) -> None:
    with Partial.opened(tmp_path, NAME, len(data)) as first:
        if data:
            fill(first, data)
        first.land(tmp_path / "first", mode=0o644)
        with Partial.opened(tmp_path, NAME, len(data)) as second:
            first.discard()
            if data:
                fill(second, data)
            second.land(tmp_path / "second", mode=0o644)
    assert (tmp_path / "second").read_bytes() == data


def test_an_empty_file_that_was_discarded_takes_no_other_with_it(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 0) as first:
        first.discard()
        second = Partial.opened(tmp_path, NAME, 0)
        partial = second.__enter__()
    partial.land(tmp_path / "second", mode=0o644)
    second.__exit__(None, None, None)
    assert (tmp_path / "second").exists()


def test_a_file_that_lands_while_another_opens_it_is_not_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, lock = tmp_path / "target", fcntl.flock
    (tmp_path / f"{PREFIX}{NAME}").write_bytes(b"right")

    def landing(descriptor: int, how: int) -> None:
        if not target.exists():
            (tmp_path / f"{PREFIX}{NAME}").rename(target)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", landing)
    with Partial.opened(tmp_path, NAME, 5) as partial:
        fill(partial, b"wrong")
    assert target.read_bytes() == b"right"


def test_a_sweep_leaves_alone_what_was_begun_after_it_had_opened_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / f"{PREFIX}{NAME}", fcntl.flock
    path.write_bytes(b"old")

    def replaced(descriptor: int, how: int) -> None:
        path.unlink()
        path.write_bytes(b"new")
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", replaced)
    assert sweep_partials(tmp_path) == 0
    assert path.read_bytes() == b"new"


def test_who_was_left_behind_begins_no_new_stretch_either(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 5) as partial:
        turn = partial.turn
        fill(partial, b"right")
    with pytest.raises(Revoked), partial.writing(0, B, turn=turn) as pen:
        pen.write(b"wrong")


def test_what_a_disowned_source_is_sending_is_not_taken_and_the_log_does_not_bring_it_back(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 10) as partial:
        fill(partial, b"right", B)
        with partial.writing(5, A) as pen:
            pen.write(b"wro")
            partial.disown(A)
            with pytest.raises(Revoked):
                pen.write(b"ng")
        assert [each.source for each in partial.stretches] == [B]
    with Partial.opened(tmp_path, NAME, 10) as again:
        assert [(each.start, each.stop, each.source) for each in again.stretches] == [(0, 5, B)]


def test_a_disowned_source_may_send_again_when_it_is_asked_again(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 5) as partial:
        partial.disown(A)
        fill(partial, b"right", A)
        assert partial.received == 5


def test_bytes_that_are_written_once_more_are_no_longer_those_that_were_read(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 5) as partial:
        partial.begin()
        fill(partial, b"right", A)
        partial.require_unchanged(5)
        fill(partial, b"wrong", B)
        with pytest.raises(Rewritten):
            partial.require_unchanged(5)


def test_a_seal_waits_for_who_is_in_the_middle(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, NAME, 5) as partial:
        sealing = threading.Thread(target=partial.seal, daemon=True)
        with partial.in_turn(partial.turn):
            sealing.start()
            sealing.join(0.05)
            assert sealing.is_alive()
        sealing.join(10)
        assert not sealing.is_alive()


def test_a_sweep_on_a_disk_without_locks_and_past_a_link_removes_nothing_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{PREFIX}{NAME}").write_bytes(b"old")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")

    def lockless(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lockless)
    assert sweep_partials(tmp_path) == 0
    assert (tmp_path / f"{PREFIX}{NAME}").exists()


def test_on_a_disk_without_locks_nothing_is_left_but_what_landed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lockless(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lockless)
    with Partial.opened(tmp_path, NAME, 5) as partial:
        fill(partial, b"right")
        partial.land(tmp_path / "target", mode=0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
