"""What a killed run received is not fetched again, and nothing is taken for received that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_modelcache.transfer.assemble import SPLIT
from ci_modelcache.transfer.partial import PREFIX, Partial
from ci_modelcache.transfer.stretches import parse_line
from tests.parts.hub_faults import HeldBack, Limited
from tests.parts.upstreams import MEGA, MODEL, REPO, hubs, weights
from tests.parts.verbs import STAGED, files_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.demo.hub import LoopbackHub

# --- killed

BIG = {MODEL: weights(14 * MEGA), "config.json": b"{}"}
WHOLE = sum(map(len, BIG.values()))
WORKERS = 3
UNLOGGED = (WORKERS + 1) * 256 * 1024
"""Bytes that the connections may have brought and not told yet, and the small file."""


@pytest.fixture
def slow_hub() -> Iterator[LoopbackHub]:
    """A Hub of which several connections are wanted to have `BIG`."""
    with hubs(1, BIG) as (hub,):
        hub.faults.append(Limited(rate=4e6))
        yield hub


def logged(folder: Path) -> int:
    """Bytes that are known to be half received below *folder*."""
    lines = [line for log in folder.rglob(f"{PREFIX}*.log") for line in log.read_text().splitlines(keepends=True)]
    return sum(found.stop - found.start for found in map(parse_line, lines) if found is not None)


def command(verb: str, hub: LoopbackHub, folder: Path) -> subprocess.Popen[str]:
    """The *verb* at work, in a process of its own."""
    to = ("--to", folder / "model", "--mode", "off") if verb == "restore" else ()
    argv = [
        verb,
        REPO,
        "--store",
        folder / "store",
        "--endpoint",
        hub.url,
        *to,
        "--workers",
        str(WORKERS),
        "--deadline",
        "60s",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "ci_modelcache", *map(str, argv)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "CI_MODELCACHE_STATE": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("verb", ["restore", "fetch"])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_after_a_kill_at_most_one_part_is_fetched_again(
    verb: str, share: float, slow_hub: LoopbackHub, tmp_path: Path
) -> None:
    """And nothing wrong, nor half, is at a final path in between."""
    held = HeldBack(most=int(share * WHOLE))
    slow_hub.faults.append(held)
    patience = time.monotonic() + 60
    with command(verb, slow_hub, tmp_path) as killed:
        # Until it has all that was sent: how much is on its way to it would be chance.
        while not held.holds or logged(tmp_path) < slow_hub.sent - UNLOGGED:
            assert killed.poll() is None, killed.communicate()[0]
            assert time.monotonic() < patience
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(20) == -signal.SIGKILL
    before = slow_hub.sent
    assert share * WHOLE - MEGA < before < WHOLE
    held.go_on.set()
    for path, data in files_in(tmp_path / "model").items():
        assert PREFIX in path or data == BIG[path]

    with command(verb, slow_hub, tmp_path) as second:
        said, _ = second.communicate(timeout=60)
    assert second.returncode == 0, said

    # What was on its way to the killed process, or not yet in its log, is lost: less than a part for all its connections.
    assert slow_hub.sent <= WHOLE + SPLIT
    left = [path for path in tmp_path.rglob("*") if path.name.startswith((PREFIX, STAGED))]
    assert left == []
    if verb == "restore":
        assert files_in(tmp_path / "model") == BIG


# --- what a half-received file remembers

LENGTH = 60
SOURCES = ("https://a.example", "https://b.example/with space", "/a/folder")

_spans = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(sorted)
_writes = st.tuples(st.just("write"), _spans, st.sampled_from(SOURCES))
_forgets = st.tuples(st.just("forget"), _spans, st.just(""))
_reopens = st.tuples(st.just("reopen"), st.just([0, 0]), st.just(""))
_histories = st.lists(st.one_of(_writes, _writes, _forgets, _reopens), max_size=12)


@define
class Told:
    """What ought to be known: for each byte who sent it, or nothing, and what it is."""

    owners: list[str] = field(factory=lambda: [""] * LENGTH)
    data: bytearray = field(factory=lambda: bytearray(LENGTH))

    def check(self, partial: Partial) -> None:
        found = [""] * LENGTH
        for stretch in partial.stretches:
            assert 0 <= stretch.start < stretch.stop <= LENGTH
            assert not any(found[stretch.start : stretch.stop]), "two stretches overlap"
            found[stretch.start : stretch.stop] = [stretch.source] * (stretch.stop - stretch.start)
            sent = b"".join(partial.read(stretch.start, stretch.stop))
            assert sent == self.data[stretch.start : stretch.stop]
        assert found == self.owners
        missing = {at for start, stop in partial.gaps() for at in range(start, stop)}
        assert missing == {at for at in range(LENGTH) if not self.owners[at]}
        assert partial.received == LENGTH - len(missing)
        assert partial.frontier == min(missing, default=LENGTH)
        for one, other in zip(partial.stretches, partial.stretches[1:], strict=False):
            assert one.stop < other.start or one.source != other.source, "neighbours of one source are one stretch"


@given(_histories)
@settings(max_examples=100)
def test_it_knows_what_arrived_from_whom_whatever_was_written_forgotten_and_reopened(
    history: list[tuple[str, list[int], str]],
) -> None:
    told = Told()
    left = list(enumerate(history))
    with tempfile.TemporaryDirectory() as folder:
        while left:
            with Partial.opened(Path(folder), "name", LENGTH) as partial:
                told.check(partial)
                while left:
                    number, (what, (start, stop), source) = left.pop(0)
                    if what == "reopen":
                        break
                    if what == "forget":
                        partial.forget(start, stop)
                        told.owners[start:stop] = [""] * (stop - start)
                    else:
                        data = bytes((number + at) % 251 + 1 for at in range(stop - start))
                        with partial.writing(start, source) as pen:
                            for at in range(0, len(data), 7):
                                pen.write(data[at : at + 7])
                        told.owners[start:stop] = [source] * (stop - start)
                        told.data[start:stop] = data
                    told.check(partial)
        with Partial.opened(Path(folder), "name", LENGTH) as partial:
            told.check(partial)


@given(
    st.lists(st.one_of(_writes, _forgets), min_size=1, max_size=6),
    st.floats(0, 1),
    _spans,
    st.sampled_from(["log", "file"]),
)
@settings(max_examples=100)
def test_a_log_that_is_torn_or_says_too_much_never_makes_a_byte_out_of_nothing(
    history: list[tuple[str, list[int], str]], torn: float, later: list[int], cut: str
) -> None:
    """The log is cut anywhere, as by a kill or a full disk, or the file is, as by a power cut; then there is one more run."""
    data = bytes(at % 251 + 1 for at in range(LENGTH))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept, log = folder / f"{PREFIX}name", folder / f"{PREFIX}name.log"
        written: set[int] = set()
        with Partial.opened(folder, "name", LENGTH) as partial:
            with partial.writing(LENGTH - 1, SOURCES[0]) as pen:
                pen.write(data[-1:])
            for what, (start, stop), source in history:
                if what == "forget":
                    partial.forget(start, stop)
                else:
                    with partial.writing(start, source) as pen:
                        pen.write(data[start:stop])
                    written |= set(range(start, stop))
            written.add(LENGTH - 1)
        if not kept.exists():
            return  # all of it was forgotten
        if cut == "file":
            os.truncate(kept, int(torn * LENGTH))
            written = {at for at in written if at < int(torn * LENGTH)}
        else:
            os.truncate(log, int(torn * log.stat().st_size))
        for _ in range(2):
            with Partial.opened(folder, "name", LENGTH) as partial:
                for stretch in partial.stretches:
                    assert set(range(stretch.start, stretch.stop)) <= written
                    assert b"".join(partial.read(stretch.start, stretch.stop)) == data[stretch.start : stretch.stop]
                # Behind what is left of the torn line.
                with partial.writing(later[0], SOURCES[1]) as pen:
                    pen.write(data[later[0] : later[1]])
                written |= set(range(later[0], later[1]))


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "5 3 https://a\n",
        "0 61 https://a\n",
        "0 10\n",
        "-1 5 https://a\n",
        "0 5 https://a",
        "0 5 a b\n",
        "\0\0\n",
        "é\n",
    ],
)
def test_a_line_that_makes_no_sense_says_nothing(line: str, tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}name").write_bytes(bytes(LENGTH))
    (tmp_path / f"{PREFIX}name.log").write_bytes(line.encode())
    with Partial.opened(tmp_path, "name", LENGTH) as partial:
        assert partial.stretches == ()


def test_of_another_size_only_what_fits_is_believed(tmp_path: Path) -> None:
    with Partial.opened(tmp_path, "name", LENGTH) as partial, partial.writing(0, SOURCES[0]) as pen:
        pen.write(bytes(LENGTH))
    with Partial.opened(tmp_path, "name", LENGTH // 2) as partial:
        assert partial.received <= LENGTH // 2


# --- two processes

_HOLDER = """
import sys, time
from pathlib import Path
from ci_modelcache.transfer.partial import Partial
with Partial.opened(Path(sys.argv[1]), "name", 60) as partial:
    with partial.writing(0, "https://a.example") as pen:
        pen.write(b"theirs" * 5)
    print("holding", flush=True)
    time.sleep(60)
"""


def test_of_two_processes_one_keeps_the_file_and_the_other_begins_from_nothing_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env={"PATH": ""}
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with Partial.opened(tmp_path, "name", LENGTH) as mine:
            assert mine.received == 0
            with mine.writing(0, SOURCES[1]) as pen:
                pen.write(b"mine" * 15)
            target = tmp_path / "landed"
            mine.land(target, mode=0o644)
            assert target.read_bytes() == b"mine" * 15
        with Partial.opened(tmp_path, "name", LENGTH) as mine, mine.writing(0, SOURCES[1]) as pen:
            pen.write(b"mine" * 5)
        assert sorted(path.name for path in tmp_path.glob(f"{PREFIX}*")) == [f"{PREFIX}name", f"{PREFIX}name.log"]
        holder.send_signal(signal.SIGKILL)
        holder.wait(20)
    # Killed: what it had received is there for whoever comes next.
    with Partial.opened(tmp_path, "name", LENGTH) as next_one:
        assert next_one.received == 30
        assert b"".join(next_one.read(0, 30)) == b"theirs" * 5
