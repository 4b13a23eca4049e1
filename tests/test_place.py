"""One local file out of another: by a clone, a link or a copy, and never with bytes that nobody proved."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from attrs import evolve, frozen

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DigestMismatch,
    IntegrityError,
    NoSpace,
    ObjectNotFound,
    SizeMismatch,
    Unavailable,
)
from ci_modelcache.model.digest import Digest, Expected
from ci_modelcache.transfer import place as place_module
from ci_modelcache.transfer.land import land, sweep
from ci_modelcache.transfer.place import Linking, Placed, place
from ci_modelcache.transfer.receipts import Receipts, check_file
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = b"weights" * 100_000
EXPECTED = Expected(len(DATA), sha256=Digest.of(DATA))
SHA256 = Digest.of(DATA)


@frozen
class Scene:
    """A *source* in a store, a *target* in a destination, and the means to go from one to the other."""

    source: Path
    target: Path
    staging: Path
    receipts: Receipts
    expected: Expected = EXPECTED

    def place(self, *, link: Linking = Linking.READ_ONLY, mode: int = 0o644) -> Placed:
        return place(
            self.source,
            self.target,
            expected=self.expected,
            link=link,
            mode=mode,
            staging=self.staging,
            receipts=self.receipts,
        )

    def staged(self) -> list[Path]:
        return list(self.staging.iterdir()) if self.staging.exists() else []


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    source = tmp_path / "store" / "blob"
    land([DATA], source, EXPECTED, mode=0o444)
    receipts = Receipts(tmp_path / "state" / "receipts.sqlite")
    yield Scene(source, tmp_path / "there" / "nested" / "file", tmp_path / "there" / "staging", receipts)
    receipts.close()


@pytest.fixture
def no_clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on ext4: the disk does not know the request."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(place_module, "_clone", refuse)


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on btrfs and xfs, as far as anybody can see: all bytes are in the new file at once."""

    def clone(new: int, old: int) -> None:
        os.pwrite(new, os.pread(old, os.fstat(old).st_size, 0), 0)

    monkeypatch.setattr(place_module, "_clone", clone)


# Hard links


@pytest.mark.usefixtures("no_clones")
def test_a_read_only_source_is_linked(scene: Scene) -> None:
    assert scene.place() is Placed.HARDLINK
    assert scene.target.samefile(scene.source)
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_linking_twice_leaves_no_staged_name(scene: Scene) -> None:
    """rename(2) of two names of one inode does nothing and reports success."""
    scene.place()
    assert scene.place() is Placed.HARDLINK
    assert scene.staged() == []
    assert scene.source.stat().st_nlink == 2


@pytest.mark.usefixtures("no_clones")
def test_a_link_replaces_what_was_there(scene: Scene, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    scene.target.parent.mkdir(parents=True)
    scene.target.symlink_to(precious)
    assert scene.place() is Placed.HARDLINK
    assert scene.target.samefile(scene.source)
    assert precious.read_bytes() == b"precious"


@pytest.mark.usefixtures("no_clones")
def test_a_source_that_anybody_may_write_is_copied(scene: Scene) -> None:
    """Writing into the one would alter the other."""
    for mode in (0o644, 0o464, 0o446):
        scene.source.chmod(mode)
        assert scene.place() is Placed.COPY
        assert not scene.target.samefile(scene.source)


@pytest.mark.usefixtures("no_clones")
def test_without_leave_to_link_or_with_another_executable_bit_it_is_copied(scene: Scene) -> None:
    assert scene.place(link=Linking.NEVER) is Placed.COPY
    assert scene.place(mode=0o755) is Placed.COPY
    assert stat.S_IMODE(scene.target.stat().st_mode) == 0o755


@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_what_the_system_will_not_link_is_copied(scene: Scene, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Two disks, too many links, or other people's files (fs.protected_hardlinks)."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert scene.place() is Placed.COPY
    assert scene.target.read_bytes() == DATA
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_a_staged_link_is_not_swept_by_another_process(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real, swept = os.link, []

    def link(source: Path, staged: Path, *, follow_symlinks: bool) -> None:
        real(source, staged, follow_symlinks=follow_symlinks)
        swept.append(sweep(scene.staging))

    monkeypatch.setattr(os, "link", link)
    assert scene.place() is Placed.HARDLINK
    assert swept == [0]


@pytest.mark.usefixtures("no_clones")
def test_a_source_that_is_swapped_while_it_is_linked_is_not_linked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def swap(source: Path, staged: Path, *, follow_symlinks: bool) -> None:
        source.unlink()
        source.write_bytes(b"x" * len(DATA))
        real(source, staged, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", swap)
    assert scene.place() is Placed.COPY
    assert scene.target.read_bytes() == DATA
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_a_link_keeps_the_receipt_of_a_proven_source(scene: Scene) -> None:
    """The link moves the ctime; without carrying it over, each job would hash the store again."""
    scene.receipts.remember(scene.source, SHA256)
    assert scene.receipts.proven(scene.source, EXPECTED)
    for _ in range(3):
        assert scene.place() is Placed.HARDLINK
        assert check_file(scene.target, EXPECTED, scene.receipts).status == "proven"
        assert check_file(scene.source, EXPECTED, scene.receipts).status == "proven"


@pytest.mark.usefixtures("no_clones")
def test_a_source_without_a_receipt_is_hashed_before_it_is_linked(scene: Scene) -> None:
    scene.source.chmod(0o644)
    scene.source.write_bytes(b"x" * len(DATA))
    scene.source.chmod(0o444)
    with pytest.raises(DigestMismatch) as raised:
        scene.place()
    assert raised.value.__notes__ == [f"the bytes came from {scene.source}"]
    assert not scene.target.exists()


# Clones


@pytest.mark.usefixtures("clones")
def test_a_clone_is_preferred_to_a_link_and_has_its_own_mode(scene: Scene) -> None:
    assert scene.place(mode=0o755) is Placed.REFLINK
    assert not scene.target.samefile(scene.source)
    assert stat.S_IMODE(scene.target.stat().st_mode) == 0o755
    assert check_file(scene.target, EXPECTED, scene.receipts).status == "proven"
    assert scene.staged() == []


@pytest.mark.usefixtures("clones")
def test_hashing_a_clone_proves_its_source_too(scene: Scene) -> None:
    """The next job clones without reading."""
    assert not scene.receipts.proven(scene.source, EXPECTED)
    assert scene.place() is Placed.REFLINK
    assert scene.receipts.proven(scene.source, EXPECTED)


@pytest.mark.usefixtures("clones")
def test_a_clone_of_unproven_bytes_is_hashed(scene: Scene) -> None:
    scene.source.chmod(0o644)
    scene.source.write_bytes(b"x" * len(DATA))
    scene.target.parent.mkdir(parents=True)
    scene.target.write_bytes(b"before")
    with pytest.raises(DigestMismatch):
        scene.place()
    assert scene.target.read_bytes() == b"before"
    assert scene.staged() == []


def test_a_source_that_changes_while_it_is_cloned_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt held before; what was cloned may be newer."""
    scene.receipts.remember(scene.source, SHA256)
    assert scene.receipts.proven(scene.source, EXPECTED)

    def clone(new: int, old: int) -> None:
        scene.source.chmod(0o644)
        scene.source.write_bytes(b"x" * len(DATA))
        os.pwrite(new, os.pread(old, os.fstat(old).st_size, 0), 0)

    monkeypatch.setattr(place_module, "_clone", clone)
    with pytest.raises(DigestMismatch):
        scene.place()
    assert not scene.target.exists()


def test_a_proven_source_is_cloned_without_reading_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone that reads all bytes would be no faster than a copy: this one writes none, and nobody notices."""
    scene.receipts.remember(scene.source, SHA256)
    monkeypatch.setattr(place_module, "_clone", lambda new, _: os.ftruncate(new, len(DATA)))
    assert scene.place() is Placed.REFLINK


def test_a_failure_to_clone_that_is_no_refusal_is_an_error(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(place_module, "_clone", fail)
    with pytest.raises(Unavailable, match="Input/output error"):
        scene.place()


def test_the_system_call_clones_or_refuses_as_expected(tmp_path: Path) -> None:
    """The real one, on whatever disk the tests run: all bytes, or an error by which `place` goes on to a copy."""
    (tmp_path / "old").write_bytes(DATA)
    with (tmp_path / "old").open("rb") as old, (tmp_path / "new").open("wb") as new:
        try:
            place_module._clone(new.fileno(), old.fileno())
        except OSError as error:
            assert error.errno in place_module._CANNOT_CLONE  # noqa: PT017  # either outcome is right
            return
    assert (tmp_path / "new").read_bytes() == DATA


# Copies, and what can be wrong with a source


def never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on reading the source in this process is an error."""

    def refuse(*_: object) -> NoReturn:
        pytest.fail("the source was read")

    monkeypatch.setattr(place_module, "_chunks", refuse)
    monkeypatch.setattr(place_module, "fingerprint", refuse)


@pytest.mark.usefixtures("no_clones")
def test_a_proven_source_is_copied_by_the_kernel_and_nobody_hashes_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.receipts.remember(scene.source, SHA256)
    never_read(monkeypatch)
    assert scene.place(link=Linking.NEVER, mode=0o755) is Placed.COPY
    assert scene.target.read_bytes() == DATA
    assert stat.S_IMODE(scene.target.stat().st_mode) == 0o755
    assert check_file(scene.target, EXPECTED, scene.receipts).status == "proven"
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_hashing_while_copying_proves_the_source_for_the_next_copy(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not scene.receipts.proven(scene.source, EXPECTED)
    assert scene.place(link=Linking.NEVER) is Placed.COPY
    never_read(monkeypatch)
    assert scene.place(link=Linking.NEVER) is Placed.COPY


@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("cut", [False, True])
def test_a_source_that_changes_while_the_kernel_copies_it_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, cut: bool
) -> None:
    """Its receipt held before; what was copied may be newer, or less."""
    scene.receipts.remember(scene.source, SHA256)
    real = os.copy_file_range

    def change(old: int, new: int, *rest: int) -> int:
        scene.source.chmod(0o644)
        scene.source.write_bytes(b"x" * (10 if cut else len(DATA)))
        return real(old, new, *rest)

    monkeypatch.setattr(os, "copy_file_range", change)
    with pytest.raises(IntegrityError):
        scene.place(link=Linking.NEVER)
    assert not scene.target.exists()
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM])
def test_what_the_kernel_will_not_copy_is_read_and_hashed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    scene.receipts.remember(scene.source, SHA256)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert scene.place(link=Linking.NEVER) is Placed.COPY
    assert scene.target.read_bytes() == DATA
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_a_disk_that_ends_a_copy_early_is_read_instead(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """copy_file_range(2) says 0 of files whose bytes are made up as they are read."""
    scene.receipts.remember(scene.source, SHA256)
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    assert scene.place(link=Linking.NEVER) is Placed.COPY
    assert scene.target.read_bytes() == DATA


@pytest.mark.usefixtures("no_clones")
def test_a_copy_by_the_kernel_that_finds_the_disk_full_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scene.receipts.remember(scene.source, SHA256)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(NoSpace):
        scene.place(link=Linking.NEVER)
    assert not scene.target.exists()
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_a_copy_is_verified_has_its_mode_and_is_remembered(scene: Scene) -> None:
    assert scene.place(link=Linking.NEVER) is Placed.COPY
    assert stat.S_IMODE(scene.target.stat().st_mode) == 0o644
    assert check_file(scene.target, EXPECTED, scene.receipts).status == "proven"


@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize("link", Linking)
def test_a_corrupt_source_changes_nothing(scene: Scene, *, link: Linking) -> None:
    scene.target.parent.mkdir(parents=True)
    scene.target.write_bytes(b"before")
    for bad, error in ((b"x" + DATA[1:], DigestMismatch), (DATA[:-1], SizeMismatch), (DATA + b"x", SizeMismatch)):
        scene.source.unlink()
        scene.source.write_bytes(bad)
        scene.source.chmod(0o444)
        with pytest.raises(error):
            scene.place(link=link)
        assert scene.target.read_bytes() == b"before"
        assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
@pytest.mark.parametrize(("mode", "how"), [(0o444, Placed.HARDLINK), (0o644, Placed.COPY)])
def test_a_link_for_the_same_mode_asks_for_nothing_else(scene: Scene, mode: int, how: Placed) -> None:
    assert scene.place(link=Linking.SAME_MODE, mode=mode) is how


@pytest.mark.usefixtures("no_clones")
def test_a_git_name_proves_a_file_too(scene: Scene) -> None:
    small = scene.source.parent / "small"
    small.write_bytes(b"Hello, World!")
    small.chmod(0o444)
    right = Expected(13, git_oid="b45ef6fec89518d314f546fd6c3025367b721684")
    for link in Linking:
        how = evolve(scene, source=small, expected=right).place(link=link)
        assert how is (Placed.HARDLINK if link is Linking.READ_ONLY else Placed.COPY)
    with pytest.raises(DigestMismatch):
        evolve(scene, source=small, expected=evolve(right, git_oid="0" * 40)).place()


def test_a_missing_an_unreadable_and_a_strange_source_are_three_errors(scene: Scene) -> None:
    scene.source.chmod(0)
    with unprivileged(), pytest.raises(AccessDenied, match=r"cannot read .*blob: Permission denied"):
        scene.place()
    scene.source.unlink()
    with pytest.raises(ObjectNotFound, match="store holds no object blob"):
        scene.place()
    os.mkfifo(scene.source)
    with pytest.raises(IntegrityError, match="is not a regular file"):
        scene.place()


def test_a_target_that_cannot_be_written_says_why(scene: Scene) -> None:
    """Whatever way was tried first."""
    scene.target.parent.mkdir(parents=True)
    with (
        unprivileged(scene.target.parent),
        pytest.raises(AccessDenied, match=r"cannot write .*file: .*Permission denied"),
    ):
        scene.place()
    scene.target.mkdir()
    with pytest.raises(ConfigError, match="something else is in its place"):
        scene.place()


@pytest.mark.usefixtures("no_clones")
def test_a_source_that_somebody_has_locked_is_copied(scene: Scene) -> None:
    """Waiting for the lock might be for ever."""
    with scene.source.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert scene.place() is Placed.COPY
    assert scene.staged() == []


@pytest.mark.usefixtures("no_clones")
def test_a_file_can_be_parted_from_its_other_names(scene: Scene) -> None:
    """Source and target may be one path."""
    again = evolve(scene, target=scene.source)
    (scene.source.parent / "other").hardlink_to(scene.source)
    assert again.place(link=Linking.NEVER) is Placed.COPY
    assert scene.source.stat().st_nlink == 1
    assert Path(scene.source).read_bytes() == DATA


@pytest.mark.usefixtures("no_clones")
def test_several_may_link_one_source_at_once(scene: Scene) -> None:
    """Each holds the lock that spares its staged name; none may shut the others out."""
    with scene.source.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert scene.place() is Placed.HARDLINK
