"""A report holds every event whole, whoever else writes, dies or fills the disk; and it can be read again."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.redact import redact
from ci_modelcache.transfer.events import (
    Attempt,
    Decision,
    Event,
    Events,
    FileDone,
    SnapshotDone,
    TokenAsked,
    Waited,
)
from ci_modelcache.transfer.recorder import Recorder
from ci_modelcache.transfer.report import FORMAT, MAX_LINE, Recorded, RunStarted, Skipped, read, to_line

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "correct-horse-battery"
ATTEMPT = Attempt("https://hub.internal", "model.safetensors", 0, 100, 60, 0.25, 1.5, "broken-off", "cut")
EVENTS: tuple[Event, ...] = (
    ATTEMPT,
    Decision("https://hub.internal", "left: too slow", "model.safetensors"),
    Waited("https://hub.internal", 2.0, "Retry-After"),
    TokenAsked("hub.internal", "env:TOKEN", 0.5, "denied", "no"),
    FileDone("org/name@main", "model.safetensors", 100, 2.0, {"https://hub.internal": 60, "s3://bucket": 40}),
    SnapshotDone("org/name@main", "miss", 1, 100, 60, 2.5),
)


def _recorder(path: Path, **options: Any) -> Recorder:
    given: dict[str, Any] = {"version": "1.2", "command": "restore", "redact": redact, "run": "r1"} | options
    return Recorder(path, **given)


def _events(path: Path) -> list[Event | RunStarted]:
    lines = list(read(path))
    assert not [line for line in lines if isinstance(line, Skipped)]
    return [line.event for line in lines if isinstance(line, Recorded)]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "report.jsonl"


# --- what is written


def test_every_event_is_a_line_that_is_read_as_the_same_event(report: Path) -> None:
    with _recorder(report, clock=lambda: 1_763_697_600.125) as recorder:
        events: Events = recorder
        for event in EVENTS:
            events.record(event)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert lines[0] == {
        "event": "run",
        "at": 1_763_697_600.125,
        "run": "r1",
        "format": FORMAT,
        "version": "1.2",
        "command": "restore",
    }
    assert lines[1] == {
        "event": "attempt",
        "at": 1_763_697_600.125,
        "run": "r1",
        "source": "https://hub.internal",
        "path": "model.safetensors",
        "start": 0,
        "stop": 100,
        "received": 60,
        "first_byte": 0.25,
        "seconds": 1.5,
        "cause": "broken-off",
        "error": "cut",
    }
    assert _events(report) == [RunStarted(FORMAT, "1.2", "restore"), *EVENTS]


def test_a_line_is_on_the_disk_as_soon_as_the_event_is_recorded(report: Path) -> None:
    recorder = _recorder(report)
    recorder.record(ATTEMPT)
    assert _events(report)[1:] == [ATTEMPT]
    recorder.close()


def test_the_runs_of_one_file_have_names_of_their_own(report: Path) -> None:
    for _ in range(2):
        _recorder(report, run=None).close()
    first, second = (line.run for line in read(report) if isinstance(line, Recorded))
    assert first != second


def test_what_is_recorded_after_the_end_is_dropped(report: Path) -> None:
    recorder = _recorder(report)
    recorder.close()
    recorder.close()
    recorder.record(ATTEMPT)
    assert len(_events(report)) == 1


HOSTILE = 'a\nb\r\x1b[2J\x00\x85\u2028"}{\\ \ud800 é'


def test_hostile_text_stays_within_its_line(report: Path) -> None:
    with _recorder(report) as recorder:
        recorder.record(Attempt(HOSTILE, HOSTILE, error=HOSTILE))
        recorder.record(FileDone(HOSTILE, HOSTILE, 1, 1.0, {HOSTILE: 1}))
    data = report.read_bytes()
    assert data.count(b"\n") == 3
    assert re.fullmatch(rb"[\x20-\x7e\n]*", data)
    assert _events(report)[1:] == [
        Attempt(HOSTILE, HOSTILE, error=HOSTILE),
        FileDone(HOSTILE, HOSTILE, 1, 1.0, {HOSTILE: 1}),
    ]


def _with(event: Event, text: str) -> Event:
    """*event* with *text* in every field that holds text."""
    changes: dict[str, Any] = {}
    for name in type(event).__annotations__:
        value = getattr(event, name)
        if isinstance(value, str) and name != "kind":
            changes[name] = text
        elif isinstance(value, dict):
            changes[name] = {text: 5, text + " ": 6}
    return evolve(event, **changes)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
@pytest.mark.parametrize(
    "text", [f"x {SECRET} y", "https://u:p4ss@host/?X-Amz-Signature=abcdef", "Bearer hf_0123456789abcdefghij"]
)
def test_no_secret_reaches_the_file(event: Event, text: str, report: Path) -> None:
    with _recorder(report, redact=partial(redact, secrets=(SECRET,)), command=text, version=text) as recorder:
        recorder.record(_with(event, text))
    written = report.read_text()
    assert not re.search(rf"{SECRET}|p4ss|abcdef|0123456789", written)
    assert written.count("***") >= 3


def test_names_that_are_one_without_their_secrets_are_added_up(report: Path) -> None:
    with _recorder(report) as recorder:
        recorder.record(FileDone("r", "p", 3, 1.0, {"https://a:b@host": 1, "https://c:d@host": 2}))
    (_, done) = _events(report)
    assert isinstance(done, FileDone)
    assert done.sources == {"https://***@host": 3}


def test_a_long_text_is_cut_after_its_secrets_are_hidden(report: Path) -> None:
    with _recorder(report, redact=partial(redact, secrets=(SECRET,))) as recorder:
        recorder.record(evolve(ATTEMPT, error="x" * 990 + SECRET + "x" * 100_000))
    assert report.stat().st_size < 2000
    assert SECRET[:6] not in report.read_text()


# --- what goes wrong


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "event",
    [
        evolve(ATTEMPT, seconds=-1.0),
        evolve(ATTEMPT, seconds=float("nan")),
        evolve(ATTEMPT, received=10**400),
        FileDone("r", "p", 1, 1.0, {f"{number:0900}": 1 for number in range(1200)}),
    ],
    ids=["negative", "nan", "huge", "long"],
)
def test_an_event_that_no_reader_would_take_is_left_out_with_a_warning(
    event: Event, report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _recorder(report) as recorder:
        for each in (event, event, ATTEMPT):
            recorder.record(each)
    assert _events(report)[1:] == [ATTEMPT]
    (warning,) = _warnings(caplog)
    assert warning.startswith(f"the report {report} is incomplete: ")


def test_a_full_disk_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with _recorder(Path("/dev/full")) as recorder:
        for event in EVENTS:
            recorder.record(event)
    assert _warnings(caplog) == ["the report /dev/full is incomplete: No space left on device"]


@pytest.mark.parametrize("content", ["alias ll='ls -l'\n", "[", "{}"])
def test_a_file_that_is_no_report_is_not_written_to(
    report: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    """A file of a repository may name the report: were it ~/.bashrc, what a server says would be run at the next login."""
    report.parent.mkdir(parents=True)
    report.write_text(content)
    with _recorder(report) as recorder:
        recorder.record(ATTEMPT)
    assert report.read_text() == content
    assert "it holds something else than a report" in caplog.text


def test_a_place_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with _recorder(tmp_path / "file" / "report.jsonl") as recorder:
        recorder.record(ATTEMPT)
    assert _warnings(caplog) == [f"the report {tmp_path}/file/report.jsonl is incomplete: File exists: {tmp_path}/file"]


def test_a_report_that_is_removed_while_it_is_written_is_one_warning(
    report: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _recorder(report) as recorder:
        report.unlink()
        report.parent.rmdir()
        for event in EVENTS:
            recorder.record(event)
    assert _warnings(caplog) == [f"the report {report} is incomplete: it was removed while it was being written"]


_LIMITED = """
import logging, resource, sys
from pathlib import Path
from ci_modelcache.transfer.events import Waited
from ci_modelcache.transfer.recorder import Recorder
logging.basicConfig(format="%(message)s")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
recorder = Recorder(Path(sys.argv[1]), version="1", command="restore", redact=str, run="r1")
recorder.record(Waited("first", 1.0, ""))
resource.setrlimit(resource.RLIMIT_FSIZE, (recorder.path.stat().st_size + 20, hard))
for _ in range(3):
    recorder.record(Waited("lost", 1.0, ""))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
recorder.record(Waited("last", 1.0, ""))
recorder.close()
"""


def test_a_line_that_the_disk_took_in_part_costs_no_later_line(report: Path) -> None:
    """A limit of the file's size does what a disk does that fills up and is freed again."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, report], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == f"the report {report} is incomplete: the disk took only a part of a line\n"
    lines = list(read(report))
    assert [line.event.source for line in lines if isinstance(line, Recorded) and isinstance(line.event, Waited)] == [
        "first",
        "last",
    ]
    assert [line for line in lines if isinstance(line, Skipped)] == [Skipped(f"{report}:3")]


def test_a_report_that_ends_in_the_middle_of_a_line_is_gone_on_with_on_a_new_one(report: Path) -> None:
    _recorder(report).close()
    report.write_bytes(report.read_bytes() + to_line(ATTEMPT, at=1.0, run="dead", redact=redact)[:-30])
    with _recorder(report) as recorder:
        recorder.record(ATTEMPT)
    run, torn, again, attempt = read(report)
    assert torn == Skipped(f"{report}:2")
    assert [line.event for line in (run, again, attempt) if isinstance(line, Recorded)] == [
        RunStarted(FORMAT, "1.2", "restore"),
        RunStarted(FORMAT, "1.2", "restore"),
        ATTEMPT,
    ]


# --- several writers

_WRITER = """
import sys
import threading
from pathlib import Path
from ci_modelcache.transfer.events import Attempt
from ci_modelcache.transfer.recorder import Recorder

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
recorder = Recorder(path, version="1", command="restore", redact=str, run=name)
sys.stdin.readline()

def work(thread):
    for number in range(count):
        recorder.record(Attempt(f"{name}-{thread}", "x" * (number % 900), start=number))

threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_two_processes_of_four_threads_each_write_whole_lines_and_all_of_them(report: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(report)]
    writers = [subprocess.Popen([*command, name, "300"], stdin=subprocess.PIPE, text=True) for name in ("a", "b")]
    for writer in writers:
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    attempts = [event for event in _events(report) if isinstance(event, Attempt)]
    assert len(attempts) == 2 * 4 * 300
    for name in ("a", "b"):
        for thread in range(4):
            assert [each.start for each in attempts if each.source == f"{name}-{thread}"] == list(range(300))


_VICTIM = """
import sys
from pathlib import Path
from ci_modelcache.transfer.events import Waited
from ci_modelcache.transfer.recorder import Recorder

recorder = Recorder(Path(sys.argv[1]), version="1", command="restore", redact=str, run="killed")
number = 0
while True:
    recorder.record(Waited("x" * 500, float(number), ""))
    print(number, flush=True)
    number += 1
"""


def test_a_job_killed_in_the_middle_leaves_all_that_it_had_recorded(report: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM, report], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    with victim.stdout as said:
        for _ in range(500):
            told = int(said.readline())
        victim.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in said if line.endswith("\n"))])
    victim.wait(timeout=60)
    with _recorder(report) as recorder:
        recorder.record(ATTEMPT)
    lines = list(read(report))
    written = [line.event.seconds for line in lines if isinstance(line, Recorded) and isinstance(line.event, Waited)]
    assert written[: told + 1] == list(range(told + 1))
    assert isinstance(lines[-1], Recorded)
    assert lines[-1].event == ATTEMPT
    assert len([line for line in lines if isinstance(line, Skipped)]) <= 1


def test_a_recorder_can_be_told_by_many_threads_while_it_is_closed(report: Path) -> None:
    recorder = _recorder(report)
    begun = threading.Event()

    def work() -> None:
        for number in range(300):
            if number == 100:
                begun.set()
            recorder.record(ATTEMPT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(timeout=60)
    recorder.close()
    for thread in threads:
        thread.join()
    assert len(_events(report)) >= 100


# --- what is read


def _compact(plain: object) -> str:
    return json.dumps(plain, separators=(",", ":"))


def _write(report: Path, *lines: object) -> Path:
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("".join(f"{line if isinstance(line, str) else _compact(line)}\n" for line in lines))
    return report


RUN = {"event": "run", "at": 1, "run": "r", "format": 1, "version": "1", "command": "restore"}
WAIT = {"event": "wait", "at": 2, "run": "r", "source": "s", "seconds": 1, "reason": "x"}


def test_events_and_fields_of_a_later_version_are_skipped_and_named(report: Path) -> None:
    _write(report, RUN, {"event": "weather", "sky": ["blue"]}, WAIT | {"why": None})
    assert list(read(report)) == [
        Recorded(1.0, "r", RunStarted(1, "1", "restore")),
        Skipped(f"{report}:2", "weather"),
        Recorded(2.0, "r", Waited("s", 1, "x"), ("wait.why",)),
    ]


def test_fields_with_a_default_may_be_missing(report: Path) -> None:
    _write(report, {"event": "attempt", "at": 1, "run": "r", "source": "s", "path": "p"})
    assert _events(report) == [Attempt("s", "p")]


def test_a_line_without_an_end_is_skipped(report: Path) -> None:
    report = _write(report, RUN, WAIT)
    report.write_text(report.read_text()[:-20])
    assert list(read(report))[1:] == [Skipped(f"{report}:2")]


def test_zeros_and_empty_lines_that_a_crash_left_are_no_lines(report: Path) -> None:
    assert len(_events(_write(report, RUN, "\0" * 100, "", WAIT))) == 2


def test_an_empty_report_has_no_events(report: Path) -> None:
    assert _events(_write(report)) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("hello", "is not JSON"),
        ("[]", 'expected an object with an "event"'),
        ("{}", 'expected an object with an "event"'),
        ({"event": 5}, 'expected an object with an "event"'),
        ('{"event":"wait","event":"run"', "torn"),
        ('{"a":1,"a":2}', "names a member twice"),
        (WAIT | {"at": "now"}, "wait.at: expected a number, not negative, got 'now'"),
        (WAIT | {"seconds": -1}, "wait.seconds: expected a number, not negative, got -1"),
        (WAIT | {"seconds": True}, "wait.seconds: expected a number, not negative, got True"),
        (_compact(WAIT).replace('"seconds":1', '"seconds":1e999'), "wait.seconds: expected a number"),
        (json.dumps(WAIT).replace('"seconds": 1', '"seconds": NaN'), "NaN is no JSON number"),
        (WAIT | {"source": None}, "wait.source: expected a text, got None"),
        ({"event": "wait", "at": 1, "run": "r", "source": "s"}, "wait without reason, seconds"),
        (
            {"event": "attempt", "at": 1, "run": "r", "source": "s", "path": "p", "stop": 1.5},
            "attempt.stop: expected a whole number or null, got 1.5",
        ),
        (
            {"event": "file", "at": 1, "run": "r", "ref": "r", "path": "p", "size": 1, "seconds": 1, "sources": {"s": "1"}},
            "file.sources: expected an object of whole numbers",
        ),
        ("x" * (MAX_LINE + 10), f"a line of more than {MAX_LINE} bytes"),
    ],
)  # fmt: skip  # a table
def test_a_line_that_no_run_writes_is_refused_with_its_place(line: object, why: str, report: Path) -> None:
    _write(report, RUN, line, WAIT)
    if why == "torn":
        assert Skipped(f"{report}:2") in list(read(report))
        return
    with pytest.raises(ConfigError) as refusal:
        list(read(report))
    assert refusal.value.message.startswith(f"{report}:2 is no line of a report: ")
    assert why in refusal.value.message
    assert len(refusal.value.message) < 600


def test_a_report_of_another_format_is_refused(report: Path) -> None:
    _write(report, {"event": "run", "format": 2, "anything": "else"})
    with pytest.raises(ConfigError, match="this report has format 2, and this version reads format 1") as refusal:
        list(read(report))
    assert refusal.value.hint == "another version wrote it: read it with that one"


def test_a_file_that_is_not_there_and_a_folder_are_said_to_be_so(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as refusal:
            list(read(path))
        assert refusal.value.message == f"cannot read the report {path}: {why}"


# --- any event, any cut

_TEXT = st.text(max_size=30)
_WHOLE = st.integers(0, 10**12)
_SECONDS = st.floats(0, 10**6).map(lambda value: round(value, 6))
_ANY = st.one_of(
    st.builds(
        Attempt,
        source=_TEXT,
        path=_TEXT,
        start=_WHOLE,
        stop=st.none() | _WHOLE,
        received=_WHOLE,
        first_byte=st.none() | _SECONDS,
        seconds=_SECONDS,
        cause=_TEXT,
        error=_TEXT,
    ),
    st.builds(Decision, source=_TEXT, reason=_TEXT, path=_TEXT),
    st.builds(Waited, source=_TEXT, seconds=_SECONDS, reason=_TEXT),
    st.builds(TokenAsked, host=_TEXT, provider=_TEXT, seconds=_SECONDS, cause=_TEXT, error=_TEXT),
    st.builds(
        FileDone, ref=_TEXT, path=_TEXT, size=_WHOLE, seconds=_SECONDS, sources=st.dictionaries(_TEXT, _WHOLE, max_size=3)
    ),
    st.builds(
        SnapshotDone, ref=_TEXT, result=_TEXT, files=_WHOLE, size=_WHOLE, received=_WHOLE, seconds=_SECONDS, error=_TEXT
    ),
)  # fmt: skip  # one event a paragraph


def _lines(events: list[Event]) -> bytes:
    plain: Callable[[str], str] = str
    return b"".join(to_line(event, at=1.0, run="r", redact=plain) for event in events)


@given(events=st.lists(_ANY, min_size=1, max_size=4), cut=st.floats(0, 1))
def test_any_events_are_read_as_they_were_and_a_report_cut_anywhere_lacks_the_last_line_only(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], cut: float
) -> None:
    report = tmp_path_factory.getbasetemp() / "any.jsonl"
    data = _lines(events)
    report.write_bytes(data)
    assert _events(report) == events
    kept = data[: round(cut * len(data))]
    report.write_bytes(kept)
    whole = kept.count(b"\n") + kept.endswith(b"}")
    lines = list(read(report))
    assert [line.event for line in lines if isinstance(line, Recorded)] == events[:whole]
    rest = kept[kept.rfind(b"\n") + 1 :]
    torn = [Skipped(f"{report}:{kept.count(os.linesep.encode()) + 1}")] if rest and not rest.endswith(b"}") else []
    assert [line for line in lines if isinstance(line, Skipped)] == torn


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(
    lines=st.lists(
        st.binary(max_size=60)
        | _JSON.map(lambda plain: json.dumps(plain).encode())
        | st.dictionaries(st.sampled_from(sorted(WAIT)), _JSON).map(
            lambda changes: json.dumps(WAIT | changes).encode()
        ),
        max_size=4,
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused_and_nothing_else_happens(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    report = tmp_path_factory.getbasetemp() / "whatever.jsonl"
    report.write_bytes(b"\n".join(lines))
    with suppress(ConfigError):
        assert len(list(read(report))) <= len(report.read_bytes().split(b"\n"))
