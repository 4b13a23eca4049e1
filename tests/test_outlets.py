"""Outlets: what they made is there whole or not at all, and what a broken stream has brought is used by the next one, once it is proven."""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from ci_modelcache.errors import AccessDenied, ConfigError, DeadlineExceeded, IntegrityError, NoSpace, Unavailable
from ci_modelcache.transfer import parts
from ci_modelcache.transfer.frames import Compressed, bound
from ci_modelcache.transfer.kept_file import KeptFile
from ci_modelcache.transfer.outlet import FileOutlet, Keeping, Lasting
from ci_modelcache.transfer.parts import PartFiles
from ci_modelcache.transfer.zstd import compressor, decompressor
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.transfer.outlet import Kept, Outlet, Take

CONTENT = random.Random(1).randbytes(3000) + bytes(4000) + random.Random(2).randbytes(3240)
SPLIT, FRAME = 1000, 2048
CUTS = [0, 1, 999, 1000, 1001, 2047, 2048, 2049, 4100, 9999, len(CONTENT) - 1, len(CONTENT)]


@frozen
class Kind:
    """One way to write *name*, and to read it back."""

    made: Callable[[Path], Keeping]
    name: str
    back: Callable[[Path], bytes]

    def at(self, folder: Path) -> Keeping:
        return self.made(folder / self.name)

    def content(self, folder: Path) -> bytes:
        return self.back(folder / self.name)


def joined(path: Path) -> bytes:
    """What a shell makes of the parts."""
    done = subprocess.run(["sh", "-c", f"cat {path.name}.[0-9]*"], cwd=path.parent, capture_output=True, check=True)
    return done.stdout


def unpacked(data: bytes) -> bytes:
    """What any reader of zstd makes of *data*, frame by frame."""
    content = b""
    while data:
        frame = decompressor()
        content += frame.decompress(data)
        assert frame.eof
        data = frame.unused_data
    return content


KINDS = {
    "file": Kind(KeptFile, "x.tar", lambda path: path.read_bytes()),
    "parts": Kind(lambda path: PartFiles(path, SPLIT), "x.tar", joined),
    "zstd": Kind(
        lambda path: Compressed(KeptFile(path), frame=FRAME), "x.tar.zst", lambda path: unpacked(path.read_bytes())
    ),
    "zstd in parts": Kind(
        lambda path: Compressed(PartFiles(path, SPLIT), frame=FRAME), "x.tar.zst", lambda path: unpacked(joined(path))
    ),
}


@pytest.fixture(params=[*KINDS.values()], ids=[*KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


class Proof:
    """Whoever proves what is kept of *content*: *good* bytes of it were right."""

    def __init__(self, content: bytes = CONTENT, *, at_most: int | None = None) -> None:
        self.content = content
        self.at_most = len(content) if at_most is None else at_most
        self.good = 0

    def __call__(self, kept: Kept) -> int:
        for piece in kept(0):
            there = self.content[self.good : self.at_most]
            right = next((at for at, pair in enumerate(zip(piece, there, strict=False)) if pair[0] != pair[1]), None)
            right = min(len(piece), len(there)) if right is None else right
            self.good += right
            if right < len(piece):
                break
        return self.good


def give(outlet: Keeping, content: bytes = CONTENT, *, proof: Proof | None = None, step: int = 700) -> int:
    """Write all of *content*, and return how many bytes of it were there already."""
    proof = proof or Proof(content)
    with outlet.resume(len(content), proof) as take:
        for start in range(proof.good, len(content), step):
            take(content[start : start + step])
    return proof.good


def break_off(outlet: Keeping, cut: int, error: BaseException | None = None, content: bytes = CONTENT) -> None:
    """Write *cut* bytes of *content* more than are there, and end as if by *error*, by default Ctrl-C."""
    error = error or KeyboardInterrupt()
    with pytest.raises(type(error)), outlet.resume(len(content), proof := Proof(content)) as take:  # noqa: PT012  # what is taken before it breaks off
        take(content[proof.good : proof.good + cut])
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def nothing_half_made(folder: Path) -> bool:
    return not [name for name in names(folder) if "partial" in name or "landing" in name]


# --- what they make


def test_what_was_given_is_there_whole_and_readable_for_all(kind: Kind, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert give(kind.at(tmp_path)) == 0
    finally:
        os.umask(before)
    assert kind.content(tmp_path) == CONTENT
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}
    assert nothing_half_made(tmp_path)


def test_the_bytes_do_not_depend_on_the_pieces_in_which_they_came(kind: Kind, tmp_path: Path) -> None:
    seen = set()
    for step in (1, 100, 100_000):
        folder = tmp_path / str(step)
        give(kind.at(folder), step=step)
        seen.add(tuple((path.name, path.read_bytes()) for path in sorted(folder.iterdir())))
    assert len(seen) == 1


def test_a_folder_that_is_not_there_is_made(kind: Kind, tmp_path: Path) -> None:
    give(kind.at(tmp_path / "a" / "b"))
    assert kind.content(tmp_path / "a" / "b") == CONTENT


def test_what_was_made_is_said_with_its_size_and_digest(kind: Kind, tmp_path: Path) -> None:
    outlet = kind.at(tmp_path)
    break_off(outlet, 5000)
    give(outlet)
    assert isinstance(outlet, Lasting)
    made = outlet.written(hashlib.sha256(CONTENT).hexdigest())
    assert [each.name for each in made] == [str(tmp_path / name) for name in names(tmp_path) if "sha256s" not in name]
    for each in made:
        data = (tmp_path / each.name).read_bytes()
        assert (each.size, each.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_sha256sum_checks_the_parts_and_what_they_make_together(tmp_path: Path) -> None:
    give(PartFiles(tmp_path / "x.tar", SPLIT))
    command = ["sha256sum", "--strict", "--ignore-missing", "-c", "x.tar.sha256s"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(list(tmp_path.glob("x.tar.[0-9]*"))) == 11
    (tmp_path / "x.tar").write_bytes(joined(tmp_path / "x.tar"))
    whole = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "x.tar: OK" in whole.stdout.splitlines()


def test_parts_have_the_size_that_was_asked_for_and_the_last_one_what_is_left(tmp_path: Path) -> None:
    for content in (CONTENT, CONTENT[:3000], b"x"):
        give(PartFiles(tmp_path / "x.tar", SPLIT), content)
        sizes = [path.stat().st_size for path in sorted(tmp_path.glob("x.tar.[0-9]*"))]
        assert sizes == [SPLIT] * (len(content) // SPLIT) + [len(content) % SPLIT] * bool(len(content) % SPLIT)


def test_fewer_parts_take_the_place_of_more(tmp_path: Path) -> None:
    """Else a shell would put those of the old archive behind the new one."""
    outlet = PartFiles(tmp_path / "x.tar", SPLIT)
    give(outlet)
    give(outlet, b"short")
    assert names(tmp_path) == ["x.tar.000", "x.tar.sha256s"]


def test_too_many_parts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 1000 parts"), PartFiles(tmp_path / "x.tar", 10).open(10_001):
        pass
    assert names(tmp_path) == []


def test_a_thousand_parts_are_put_together_in_their_order_and_gone_on_with(tmp_path: Path) -> None:
    outlet, content = PartFiles(tmp_path / "x.tar", 10), CONTENT[:10_000]
    break_off(outlet, 10_000, content=content)
    assert give(outlet, content) == 10_000
    assert joined(tmp_path / "x.tar") == content
    assert len(names(tmp_path)) == 1001


# --- zstd


def test_frames_are_independent_say_their_size_and_carry_a_checksum(tmp_path: Path) -> None:
    give(KINDS["zstd"].at(tmp_path))
    data, plain = (tmp_path / "x.tar.zst").read_bytes(), []
    while data[:4] == b"\x28\xb5\x2f\xfd":
        descriptor = data[4]
        assert descriptor & 0b100, "a checksum"
        frame = decompressor()
        plain.append(frame.decompress(data))
        data = frame.unused_data
    assert [len(each) for each in plain] == [FRAME] * (len(CONTENT) // FRAME) + [len(CONTENT) % FRAME] * (
        len(CONTENT) % FRAME > 0
    )


def test_the_table_at_the_end_says_where_each_frame_begins(tmp_path: Path) -> None:
    """Read as the description of the seekable format says: nothing of ours is used for it."""
    give(KINDS["zstd"].at(tmp_path))
    data = (tmp_path / "x.tar.zst").read_bytes()
    count, flags, magic = (int.from_bytes(data[a:b], "little") for a, b in ((-9, -5), (-5, -4), (-4, len(data))))
    assert (count, flags, magic) == (5, 0, 0x8F92EAB1)
    table = data[-(8 + 8 * count + 9) :]
    assert (int.from_bytes(table[:4], "little"), int.from_bytes(table[4:8], "little")) == (0x184D2A5E, 8 * count + 9)
    start, content = 0, b""
    for number in range(count):
        packed, plain = (int.from_bytes(table[8 + 8 * number + at : 12 + 8 * number + at], "little") for at in (0, 4))
        frame = decompressor().decompress(data[start : start + packed])
        assert len(frame) == plain
        start, content = start + packed, content + frame
    assert (content, start) == (CONTENT, len(data) - len(table))


@pytest.mark.parametrize("size", [1, 2047, 2048, 2049, 100_000])
def test_what_cannot_be_packed_grows_by_no_more_than_was_said(size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    give(KINDS["zstd"].at(tmp_path), content)
    assert (tmp_path / "x.tar.zst").stat().st_size <= bound(size, FRAME)


# --- broken off, and gone on with


@pytest.mark.parametrize("cut", CUTS)
def test_after_a_break_at_any_byte_the_next_one_goes_on_there(kind: Kind, cut: int, tmp_path: Path) -> None:
    outlet = kind.at(tmp_path)
    break_off(outlet, cut)
    assert not [name for name in names(tmp_path) if "partial" not in name], "nothing has its name yet"
    good = give(outlet)
    assert kind.content(tmp_path) == CONTENT
    assert nothing_half_made(tmp_path)
    # What is packed comes out when a block is whole, and a frame that is so small has one.
    assert good == (cut - cut % FRAME if kind.name.endswith(".zst") and cut < len(CONTENT) else cut)


def test_it_may_break_many_times(kind: Kind, tmp_path: Path) -> None:
    outlet, good = kind.at(tmp_path), []
    for _ in range(5):
        break_off(outlet, 2100)
        with pytest.raises(KeyboardInterrupt), outlet.resume(len(CONTENT), proof := Proof()):
            raise KeyboardInterrupt
        good.append(proof.good)
    assert good == sorted(good)
    assert good[-1] > 8000
    give(outlet)
    assert kind.content(tmp_path) == CONTENT


@pytest.mark.parametrize("at", [0, 10, 1500, 4999])
def test_kept_bytes_that_are_wrong_are_written_again(kind: Kind, at: int, tmp_path: Path) -> None:
    outlet = kind.at(tmp_path)
    break_off(outlet, 5000)
    rest = at
    for path in sorted(tmp_path.glob("*.partial*")):
        data = bytearray(path.read_bytes())
        if path.name.endswith(".partial") and data == b"parts":
            continue
        if rest < len(data):
            data[rest] ^= 1
            path.write_bytes(data)
            break
        rest -= len(data)
    good = give(outlet)
    assert kind.content(tmp_path) == CONTENT
    assert good <= (5000 if kind.name.endswith(".zst") else at)


def test_of_another_stream_nothing_is_kept_but_what_both_have(kind: Kind, tmp_path: Path) -> None:
    outlet = kind.at(tmp_path)
    break_off(outlet, 9000)
    other = CONTENT[:2100] + bytes(reversed(CONTENT[2100:5000]))
    assert give(outlet, other) <= 2101
    assert kind.content(tmp_path) == other
    assert nothing_half_made(tmp_path)


def test_what_is_proven_to_the_middle_of_a_frame_is_packed_once_more(tmp_path: Path) -> None:
    kind = KINDS["zstd"]
    break_off(kind.at(tmp_path), 9000)
    assert give(kind.at(tmp_path), proof=Proof(at_most=FRAME + 100)) == FRAME + 100
    assert kind.content(tmp_path) == CONTENT
    give(kind.at(tmp_path / "at once"))
    assert (tmp_path / "x.tar.zst").read_bytes() == (tmp_path / "at once" / "x.tar.zst").read_bytes()


def test_a_stream_that_is_whole_but_was_not_landed_needs_nothing(kind: Kind, tmp_path: Path) -> None:
    outlet = kind.at(tmp_path)
    break_off(outlet, len(CONTENT))
    assert give(outlet) == len(CONTENT)
    assert kind.content(tmp_path) == CONTENT


@pytest.mark.parametrize(
    "kept", [b"", b"\x28", b"\x28\xb5\x2f\xfd", b"no zstd at all" * 100, b"\x50\x2a\x4d\x18" + bytes(9)]
)
def test_what_is_no_zstd_is_not_kept(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst.partial").write_bytes(kept)
    assert give(KINDS["zstd"].at(tmp_path)) == 0
    assert KINDS["zstd"].content(tmp_path) == CONTENT


def test_a_frame_that_is_larger_than_ours_is_no_frame_of_ours(tmp_path: Path) -> None:
    """A few bytes that become many would fill the memory."""
    bomb = compressor(10 << 20)
    (tmp_path / "x.tar.zst.partial").write_bytes(bomb.compress(bytes(10 << 20)) + bomb.flush())
    content = bytes(3 * FRAME)
    assert give(KINDS["zstd"].at(tmp_path), content) <= len(content)
    assert KINDS["zstd"].content(tmp_path) == content


def test_another_size_of_parts_keeps_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    for second, good in ((700, 0), (1500, 1000)):
        break_off(PartFiles(path, 1000), 5000)
        assert give(PartFiles(path, second)) == good
        assert joined(path) == CONTENT
        assert nothing_half_made(tmp_path)


def test_whoever_changes_his_mind_about_parts_has_none_left_over(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    break_off(PartFiles(path, SPLIT), 5000)
    give(KeptFile(path))
    assert names(tmp_path) == ["x.tar"]
    path.unlink()
    break_off(KeptFile(path), 5000)
    give(PartFiles(path, SPLIT))
    assert joined(path) == CONTENT
    assert nothing_half_made(tmp_path)


@pytest.mark.parametrize("renamed", [1, 5, 11])
def test_parts_that_were_just_being_named_are_found_again(renamed: int, tmp_path: Path) -> None:
    """As if the process had been killed between two of the renames."""
    break_off(PartFiles(tmp_path / "x.tar", SPLIT), len(CONTENT))
    (tmp_path / "x.tar.partial").write_bytes(b"landing")
    for number in range(renamed):
        (tmp_path / f"x.tar.partial.{number:03}").rename(tmp_path / f"x.tar.{number:03}")
    assert give(PartFiles(tmp_path / "x.tar", SPLIT)) == len(CONTENT)
    assert joined(tmp_path / "x.tar") == CONTENT
    assert nothing_half_made(tmp_path)


@pytest.mark.parametrize("error", [Unavailable("gone"), DeadlineExceeded("late"), KeyboardInterrupt(), SystemExit()])
def test_what_may_pass_leaves_what_was_written_and_says_so(kind: Kind, error: BaseException, tmp_path: Path) -> None:
    break_off(kind.at(tmp_path), 5000, error)
    assert re.search(r"kept in .*\.partial", "".join(error.__notes__))
    assert not nothing_half_made(tmp_path)


@pytest.mark.parametrize("error", [IntegrityError("wrong"), NoSpace("full"), ValueError("a bug")])
def test_what_would_come_again_leaves_nothing(kind: Kind, error: BaseException, tmp_path: Path) -> None:
    break_off(kind.at(tmp_path), 5000)
    break_off(kind.at(tmp_path), 1000, error)
    assert names(tmp_path) == []


def test_what_was_there_stays_until_the_new_one_is_whole(kind: Kind, tmp_path: Path) -> None:
    old = b"old" * 1000
    give(kind.at(tmp_path), old)
    for error in (KeyboardInterrupt(), IntegrityError("wrong")):
        break_off(kind.at(tmp_path), 5000, error)
        assert kind.content(tmp_path) == old
    give(kind.at(tmp_path))
    assert kind.content(tmp_path) == CONTENT


# --- two at a time, and others who write there


def test_a_second_one_at_the_same_time_keeps_nothing_and_both_are_right(kind: Kind, tmp_path: Path) -> None:
    one = kind.at(tmp_path)
    break_off(one, 5000)
    with one.resume(len(CONTENT), proof := Proof()) as take:
        with pytest.raises(KeyboardInterrupt), kind.at(tmp_path).resume(len(CONTENT), other := Proof()) as other_take:  # noqa: PT012  # as above
            other_take(CONTENT[:3000])
            raise KeyboardInterrupt
        assert give(kind.at(tmp_path)) == other.good == 0
        assert kind.content(tmp_path) == CONTENT
        take(CONTENT[proof.good :])
    assert kind.content(tmp_path) == CONTENT
    assert nothing_half_made(tmp_path)


def test_what_a_killed_second_one_left_is_removed(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / f"{kind.name}.partial-0123456789abcdef").write_bytes(b"half")
    give(kind.at(tmp_path))
    assert nothing_half_made(tmp_path)


@pytest.mark.parametrize("trap", ["link", "hard link", "pipe", "folder"])
def test_nobody_leads_us_elsewhere(kind: Kind, trap: str, tmp_path: Path) -> None:
    victim, staged = tmp_path / "victim", tmp_path / f"{kind.name}.partial"
    victim.write_bytes(b"precious")
    if trap == "link":
        staged.symlink_to(victim)
    elif trap == "hard link":
        staged.hardlink_to(victim)
    elif trap == "pipe":
        os.mkfifo(staged)
    else:
        staged.mkdir()
    with pytest.raises(ConfigError, match="belongs to this user alone"):
        give(kind.at(tmp_path))
    assert victim.read_bytes() == b"precious"
    assert staged.exists()


def test_a_part_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(CONTENT[:500])
    (tmp_path / "x.tar.partial.000").symlink_to(victim)
    assert give(PartFiles(tmp_path / "x.tar", SPLIT)) == 0
    assert victim.read_bytes() == CONTENT[:500]
    assert joined(tmp_path / "x.tar") == CONTENT


def test_a_file_of_somebody_else_is_not_gone_on_with(tmp_path: Path) -> None:
    """He could change what was proven."""
    (tmp_path / "x.tar.partial").write_bytes(CONTENT[:100])
    os.chown(tmp_path / "x.tar.partial", 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to this user alone"):
        give(KeptFile(tmp_path / "x.tar"))


@pytest.mark.parametrize("target", ["folder", "pipe"])
def test_what_a_file_would_not_simply_replace_is_refused(kind: Kind, target: str, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    if target == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="cannot write"):
        give(kind.at(tmp_path))
    assert names(tmp_path) == [kind.name]


def test_a_folder_that_may_not_be_written_is_a_refusal(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    with unprivileged(tmp_path / "theirs"), pytest.raises(AccessDenied):
        give(kind.at(tmp_path / "theirs"))


# --- full disks


@pytest.mark.parametrize(
    "made", [KeptFile, lambda path: PartFiles(path, 10_000), lambda path: Compressed(KeptFile(path))]
)
def test_a_disk_without_room_is_found_before_anything_is_taken(made: Callable[[Path], Keeping], tmpfs: Path) -> None:
    with pytest.raises(NoSpace) as caught, made(tmpfs / "x.tar").open(2 << 20):
        pytest.fail("it was opened")
    assert "-o -" in str(caught.value.hint)
    assert names(tmpfs) == []


def test_a_disk_that_fills_up_leaves_nothing(kind: Kind, tmpfs: Path) -> None:
    with pytest.raises(NoSpace) as caught, kind.at(tmpfs).open(900_000) as take:  # noqa: PT012  # as above
        (tmpfs / "filler").write_bytes(bytes(600_000))
        for number in range(9):
            take(random.Random(number).randbytes(100_000))
    assert "-o -" in str(caught.value.hint)
    assert names(tmpfs) == ["filler"]


def test_only_what_is_missing_needs_room(tmpfs: Path) -> None:
    content = random.Random(5).randbytes(800_000)
    outlet = KeptFile(tmpfs / "x.tar")
    break_off(outlet, 600_000, content=content)
    assert give(outlet, content, step=100_000) == 600_000


# --- what cannot be gone on with


class Pipe:
    """An outlet that takes what it gets, as a pipe does."""

    name = "-"

    def __init__(self) -> None:
        self.data = b""
        self.most = 0

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        self.most = size

        def take(data: bytes) -> None:
            self.data += data

        yield take


def test_what_is_packed_goes_through_a_pipe(tmp_path: Path) -> None:
    pipe = Pipe()
    assert give(Compressed(pipe, frame=FRAME)) == 0
    assert unpacked(pipe.data) == CONTENT
    assert len(pipe.data) <= pipe.most
    give(KINDS["zstd"].at(tmp_path))
    assert pipe.data == (tmp_path / "x.tar.zst").read_bytes()
    assert Compressed(pipe).written("") == ()


def test_which_outlets_keep_what_they_have(tmp_path: Path) -> None:
    outlets: list[Outlet] = [kind.at(tmp_path) for kind in KINDS.values()]
    assert all(isinstance(each, Keeping) for each in outlets)
    assert not isinstance(Pipe(), Keeping)
    assert not isinstance(FileOutlet(tmp_path / "x"), Keeping)
    assert not isinstance(Pipe(), Lasting)


def test_begin_decides_even_when_it_looks_at_nothing(kind: Kind, tmp_path: Path) -> None:
    def nothing(_kept: Kept) -> int:
        return 0

    break_off(kind.at(tmp_path), 5000)
    with kind.at(tmp_path).resume(len(CONTENT), nothing) as take:
        take(CONTENT)
    assert kind.content(tmp_path) == CONTENT


def test_part_names_and_sums_are_found_by_no_pattern_of_each_other() -> None:
    assert parts.part_name("x.tar", 7) == "x.tar.007"
    assert parts.part_of("x.tar").fullmatch("x.tar.007")
    assert not parts.part_of("x.tar").fullmatch(parts.sums_name("x.tar"))
    assert not parts.part_of("x.tar").fullmatch("y.tar.007")
