from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cli.progress import Lines, format_seconds, terminal_bar

if TYPE_CHECKING:
    from ci_modelcache.transfer.progress import Progress

GB = 1_000_000_000


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """Lines on a stream of its own, and a clock."""

    def __init__(self) -> None:
        self.clock, self.stream = Clock(), io.StringIO()
        self.lines = Lines(lambda: self.stream, clock=self.clock)

    def after(self, seconds: float, count: int) -> None:
        self.clock.now += seconds
        self.lines.advance(count)

    @property
    def seen(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_line_is_written_every_five_seconds_with_amount_speed_and_time_left(watched: Watched) -> None:
    watched.lines.start("restoring org/name", 10 * GB)
    for _ in range(10):
        watched.after(1.0, GB // 5)
    assert watched.seen == [
        "restoring org/name: 1.0 GB of 10.0 GB, 200.0 MB/s, 45 s left",
        "restoring org/name: 2.0 GB of 10.0 GB, 200.0 MB/s, 40 s left",
    ]


def test_the_last_line_tells_how_long_it_took(watched: Watched) -> None:
    watched.lines.start("restoring org/name", 2 * GB)
    watched.after(4.0, 2 * GB)
    watched.lines.finish()
    assert watched.seen == ["restoring org/name: done, 2.0 GB in 4.0 s, 500.0 MB/s"]


def test_work_that_was_broken_off_is_not_called_done(watched: Watched) -> None:
    watched.lines.start("restoring org/name", 2 * GB)
    watched.after(4.0, GB)
    watched.lines.finish()
    assert watched.seen == ["restoring org/name: stopped at 1.0 GB of 2.0 GB"]


def test_nothing_to_do_is_done_at_once(watched: Watched) -> None:
    watched.lines.start("restoring org/name", 0)
    watched.lines.finish()
    assert watched.seen == ["restoring org/name: done, 0 B in 0.0 s"]


def test_finishing_twice_or_without_a_start_says_nothing_more(watched: Watched) -> None:
    watched.lines.finish()
    watched.lines.start("a", 0)
    watched.lines.finish()
    watched.lines.finish()
    assert len(watched.seen) == 1


def test_bytes_that_come_late_do_not_speak_after_the_end(watched: Watched) -> None:
    watched.lines.start("a", 1)
    watched.lines.finish()
    watched.after(60.0, 5)
    assert len(watched.seen) == 1


def test_more_bytes_than_announced_are_never_more_than_all(watched: Watched) -> None:
    watched.lines.start("a", GB)
    watched.after(5.0, 3 * GB)
    assert watched.seen == ["a: 1.0 GB of 1.0 GB, 600.0 MB/s, 0 s left"]


def test_bytes_that_proved_wrong_are_taken_back_and_the_speed_is_not_negative(watched: Watched) -> None:
    watched.lines.start("a", 2 * GB)
    watched.after(5.0, GB)
    watched.after(5.0, -GB)
    watched.after(5.0, -GB)
    assert watched.seen[1:] == ["a: 0 B of 2.0 GB, 0 B/s", "a: 0 B of 2.0 GB, 0 B/s"]


def test_the_speed_is_that_of_the_last_seconds_so_that_a_stall_shows(watched: Watched) -> None:
    watched.lines.start("a", 100 * GB)
    for _ in range(4):
        watched.after(5.0, GB)
    for _ in range(4):
        watched.after(5.0, 0)
    assert "200.0 MB/s" in watched.seen[3]
    assert watched.seen[-1] == "a: 4.0 GB of 100.0 GB, 0 B/s"


def test_a_second_piece_of_work_starts_from_nothing(watched: Watched) -> None:
    watched.lines.start("a", GB)
    watched.after(1.0, GB)
    watched.lines.finish()
    watched.lines.start("b", GB)
    watched.after(5.0, GB // 2)
    assert watched.seen[-1] == "b: 500.0 MB of 1.0 GB, 100.0 MB/s, 5 s left"


def advance_from_many_threads(progress: Progress, *, threads: int, times: int) -> None:
    def work() -> None:
        for _ in range(times):
            progress.advance(1)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_no_byte_is_lost_between_threads(watched: Watched) -> None:
    watched.lines.start("a", 8 * 2000)
    advance_from_many_threads(watched.lines, threads=8, times=2000)
    watched.lines.finish()
    assert watched.seen == ["a: done, 16.0 kB in 0.0 s"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (58, "58 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_seconds_are_put_as_people_say_them(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


# --- the bar


def test_the_bar_shows_work_bytes_and_share_and_is_gone_afterwards() -> None:
    stream, clock = io.StringIO(), Clock()
    bar = terminal_bar(stream, color=False, clock=clock)
    bar.start("restoring [org]/name", 2 * GB)
    clock.now += 2.0
    bar.advance(GB)
    bar.refresh()
    shown = stream.getvalue()
    assert "restoring [org]/name" in shown
    assert "1.0/2.0 GB" in shown
    bar.finish()
    assert stream.getvalue().endswith("\x1b[2K"), "a bar that is over must leave an empty line"


def test_the_bar_never_shows_more_than_all_nor_less_than_nothing() -> None:
    stream = io.StringIO()
    bar = terminal_bar(stream, color=False, clock=Clock())
    bar.start("a", 1000)
    bar.advance(-500)
    bar.refresh()
    bar.advance(5000)
    bar.refresh()
    bar.finish()
    assert "0/1.0 kB" in stream.getvalue()
    assert "1.0/1.0 kB" in stream.getvalue()
    assert "-" not in stream.getvalue().replace("-:--:--", "")
    assert "4.5" not in stream.getvalue()


def test_the_bar_can_be_started_again_and_survives_threads() -> None:
    bar = terminal_bar(io.StringIO(), color=False, clock=Clock())
    for _ in range(2):
        bar.start("a", 4000)
        advance_from_many_threads(bar, threads=4, times=1000)
        bar.finish()
    bar.finish()
    bar.advance(1)


def test_colours_are_for_those_who_want_them() -> None:
    def shown(*, color: bool) -> str:
        stream = io.StringIO()
        bar = terminal_bar(stream, color=color, clock=Clock())
        bar.start("a", 1000)
        bar.advance(500)
        bar.refresh()
        bar.finish()
        return stream.getvalue()

    assert "\x1b[3" in shown(color=True)
    assert "\x1b[3" not in shown(color=False)


DRAW = """
import sys
from ci_modelcache.cli.progress import terminal_bar
now = [100.0]
bar = terminal_bar(sys.stderr, color=False, clock=lambda: now[0])
bar.start("fetching org/a-name@c9745ed1d9f2" + "0" * 28, 13_400_000_000)
for _ in range(5):
    now[0] += 1.0
    bar.advance(210_000_000)
bar.refresh()
bar.finish()
"""


@pytest.mark.parametrize(("columns", "name"), [(80, "fetching org/a-name@c9745ed1d9f2"), (60, "fetching org/a-na…")])
def test_on_a_terminal_the_bar_is_one_line_with_all_its_numbers_and_a_short_commit(columns: int, name: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", DRAW], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, check=True)
    shown = os.read(ours, 1 << 16).decode()
    os.close(theirs)
    os.close(ours)
    lines = [line.strip() for line in re.split(r"[\r\n]+|\x1b\[[0-9;?]*[A-Za-z]", shown) if line.strip()]
    assert re.fullmatch(rf"{name} +\S+ +1\.1/13\.4 GB 210\.0 MB/s 0:00:\d\d", lines[-1]), lines
    assert all(len(line) <= columns for line in lines)
