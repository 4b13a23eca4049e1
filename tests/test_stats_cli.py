"""``ci-modelcache stats``: what it prints, and the pictures that it draws, whatever names a report has."""

from __future__ import annotations

import json
import re
import shlex
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from ci_modelcache.cli.charts import draw
from ci_modelcache.cli.drawing import Bar, Line, Panel, Picture, Range, bars, label, lines, palette, ranges
from ci_modelcache.cli.main import main
from ci_modelcache.cli.page import Table, write_page
from ci_modelcache.transfer.events import Attempt, Decision, SnapshotDone, Waited
from ci_modelcache.transfer.recorder import Recorder
from ci_modelcache.verbs.stats import stats

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden" / "report.jsonl"
HOSTILE = (
    'https://<script>alert("1")</script>&amp;\'',
    "https://$x_{y$ \\frac{1}{0} %s {0}",
    "\x1b[2J\x1b]0;owned\x07red\n\r\u202eolleh",
    "模型.example",
    "https://" + "long." * 60 + "example",
)

Run = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Exit code, stdout and stderr of a command line in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(line: str) -> Run:
        capsys.readouterr()
        code = main(shlex.split(line))
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of which every text was written by somebody who means harm."""
    path = tmp_path_factory.mktemp("hostile") / "report.jsonl"
    now = iter(range(1_763_697_600, 1_763_800_000, 1000))
    with Recorder(path, version=HOSTILE[0], command=HOSTILE[0], redact=str, clock=lambda: next(now)) as recorder:
        for text in HOSTILE:
            recorder.record(Attempt(text, text, 0, None, 3_000_000, 0.1, 2.0, text, text))
            recorder.record(Attempt(text, text, 0, None, 3_000_000, 0.1, 2.0))
            recorder.record(Decision(text, text, text))
            recorder.record(Waited(text, 1.0, text))
            recorder.record(SnapshotDone(text, text, error=text))
    return path


# --- what is printed


def test_half_a_character_in_a_name_is_printed_as_an_escape(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    with Recorder(report, version="1", command="restore", redact=str) as recorder:
        recorder.record(Attempt("https://a/\ud800é", "x", 0, None, 3_000_000, 0.1, 2.0))
    done = subprocess.run(
        [sys.executable, "-m", "ci_modelcache", "stats", str(report), "--json"],
        capture_output=True,
        check=False,
        env={"HOME": str(tmp_path), "PYTHONUTF8": "1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["sources"][0]["source"] == "https://a/\ud800é"


def test_the_figures_of_a_report_are_printed_as_a_table_and_a_list(run: Callable[[str], Run]) -> None:
    code, out, err = run(f"stats {GOLDEN}")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "SOURCE                     ATTEMPTS  ERRORS  RECEIVED  USED     MEAN/S  P50/S   P95/S   SLOW    TTFB P50  TTFB P95  WAITED",
        "https://hub.internal       3         33.3 %  7.0 MB    7.0 MB   1.0 MB  2.0 MB  2.0 MB  33.3 %  100 ms    190 ms    -",
        "https://hf-mirror.example  3         33.3 %  3.0 MB    3.0 MB   1.4 MB  2.0 MB  2.0 MB  0.0 %   350 ms    395 ms    2 s",
        "s3://bucket/models         0         -       0 B       100 B    -       -       -       -       -         -         -",
        "https://huggingface.co     1         0.0 %   0 B       0 B      -       -       -       -       -         -         -",
        "all                        7         28.6 %  10.0 MB   10.0 MB  1.1 MB  2.0 MB  2.0 MB  25.0 %  200 ms    380 ms    2 s",
        "",
        "runs        1 restore, 1 fetch, 1970-01-01 00:16 to 00:33 UTC",
        "errors      2 of 7 attempts (28.6 %): 1 stalled, 1 rate-limited",
        "slow        1 of 4 downloads (25.0 %) under 1.0 MB/s",
        "retries     1 for 4 files: 25.0 per 100 files; 3 of them proven",
        "snapshots   1 local, 1 hit, 1 miss, 1 failed (1 Unavailable)",
        "hit ratio   66.7 % of snapshots, 80.0 % of bytes",
        "speed       500.0 kB/s over all connections and waits",
        "tokens      2 requests, 1 failed (1 missing), 2 from the cache",
        "routing     1 decision, 1 wait of 2 s together",
        f"unfinished  1 line: {GOLDEN}:25",
        "unknown     1 weather, 1 attempt.colour: a later version wrote them",
    ]  # fmt: skip  # as it is printed


def test_the_same_figures_are_one_json_object(run: Callable[[str], Run]) -> None:
    code, out, _ = run(f"stats {GOLDEN} {GOLDEN} --json")
    assert code == 0
    report = json.loads(out)
    assert report["retry_rate"] == 25.0
    assert report["total"]["slow_share"] == 0.25
    assert report["sources"][0]["source"] == "https://hub.internal"
    assert report["snapshots"]["hit_ratio_bytes"] == 0.8


def test_the_threshold_of_slow_is_a_rate(run: Callable[[str], Run]) -> None:
    assert "slow        4 of 4 downloads (100.0 %) under 5.0 MB/s" in run(f"stats {GOLDEN} --slow-below 5MB")[1]
    code, _, err = run(f"stats {GOLDEN} --slow-below slowly")
    assert code == 2
    assert "slowly" in err


def test_a_file_that_is_no_report_is_wrong_usage(run: Callable[[str], Run], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(range(256)) * 100)
    code, out, err = run(f"stats {tmp_path / 'model.bin'}")
    assert (code, out) == (2, "")
    assert re.match(rf"error: {tmp_path}/model.bin:1 is no line of a report: .*\n  hint: a report is what", err)


def test_without_a_file_there_is_nothing_to_count(run: Callable[[str], Run]) -> None:
    assert run("stats")[0] == 2


def test_nothing_in_a_report_reaches_the_terminal_as_a_command(run: Callable[[str], Run], hostile: Path) -> None:
    code, out, err = run(f"stats {hostile}")
    assert code == 0
    assert not [char for char in out + err if not char.isprintable() and char != "\n"]
    assert "?[2J?]0;owned?red???olleh" in out


# --- what is drawn


def _size_of_png(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[12:16] == b"IHDR"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


class _Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _well_formed(path: Path) -> _Tags:
    """The page as XML reads it, which closes no tag for anybody, and then as a browser does."""
    text = path.read_text()
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # made here
    tags = _Tags()
    tags.feed(text)
    return tags


@pytest.mark.parametrize("report", [GOLDEN, None], ids=["golden", "empty"])
def test_a_png_and_a_page_are_drawn(report: Path | None, run: Callable[[str], Run], tmp_path: Path) -> None:
    if report is None:
        report = tmp_path / "empty.jsonl"
        report.touch()
    code, out, err = run(f"stats {report} --plot new/mirrors.png")
    assert (code, err) == (0, "drawn into new/mirrors.png\n")
    assert out.startswith("SOURCE")
    width, height = _size_of_png(Path("new/mirrors.png"))
    assert width == 1950
    assert height > 1000
    assert run(f"stats {report} --plot mirrors.html -q --json")[0] == 0
    page = _well_formed(Path("mirrors.html"))
    assert [tag for tag, _ in page.tags].count("svg") == 1
    assert "errors" in page.text


def test_the_picture_of_a_report_is_always_the_same(tmp_path: Path) -> None:
    report = stats([GOLDEN])
    for name in ("a.html", "b.html", "a.png", "b.png"):
        draw(report, tmp_path / name)
    for kind in ("html", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_the_page_has_every_figure_that_the_terminal_shows(run: Callable[[str], Run]) -> None:
    _, out, _ = run(f"stats {GOLDEN} --plot page.html")
    page = _well_formed(Path("page.html"))
    cells = {cell for line in out.splitlines() for cell in re.split(r" {2,}", line) if cell}
    assert cells
    assert [cell for cell in cells if cell not in page.text] == []


def test_hostile_names_are_text_in_a_page_that_loads_and_runs_nothing(run: Callable[[str], Run], hostile: Path) -> None:
    assert run(f"stats {hostile} --plot page.html")[0] == 0
    page = _well_formed(Path("page.html"))
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "img", "iframe", "object", "link", "a", "image", "foreignobject"})
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        addresses = [value or "" for name, value in attributes.items() if name in {"href", "xlink:href", "src"}]
        assert all(address.startswith("#") for address in addresses), tag
    assert "url(http" not in Path("page.html").read_text()
    policy = [each for _, each in page.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert [each["content"] for each in policy] == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.text
    assert HOSTILE[3] in page.text
    assert "\x1b" not in page.text


def test_hostile_names_are_drawn_and_not_obeyed(run: Callable[[str], Run], hostile: Path) -> None:
    assert run(f"stats {hostile} --plot page.png")[0] == 0
    assert _size_of_png(Path("page.png"))[0] == 1950
    assert label(HOSTILE[2]) == "?[2J?]0;owned?red???olleh"
    assert len(label(HOSTILE[4])) <= 44


@pytest.mark.parametrize("name", ["mirrors.pdf", "mirrors", "html"])
def test_another_kind_of_picture_is_refused_before_anything_is_read(name: str, run: Callable[[str], Run]) -> None:
    code, out, err = run(f"stats no-such-file --plot {name}")
    assert (code, out) == (2, "")
    assert err == (
        f"error: cannot draw {name}: expected a name that ends with .png or .html\n"
        "  hint: a .png is the picture alone, a .html has the figures too\n"
    )


_WITHOUT = "import sys; sys.modules['matplotlib'] = None; from ci_modelcache.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_without_matplotlib_the_figures_are_there_and_the_picture_says_what_to_install(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _WITHOUT, "stats", str(GOLDEN), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert run().returncode == 0
    failed = run("--plot", "mirrors.png")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == (
        "error: drawing needs matplotlib, which is not installed\n  hint: pip install 'ci-modelcache[plot]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_counting_loads_nothing_that_only_drawing_needs() -> None:
    code = (
        "import sys; from ci_modelcache.cli.main import main; main(sys.argv[1:]); "
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, "stats", str(GOLDEN)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert {"matplotlib", "numpy"}.isdisjoint(done.stdout.rpartition("loaded:")[2].split())


# --- the pieces, for other pictures


def test_a_picture_of_other_pieces_is_drawn_with_its_tables(tmp_path: Path) -> None:
    """As the report of a benchmark needs it."""
    colors = palette(["a", "b"])
    picture = Picture(
        "Mirrors measured",
        "by hand",
        (("3.6x", "one connection"), ("0", "retries")),
        (
            Panel("Speed", lambda axes: lines(axes, [Line("a", [0, 1, 2], [1, 3, 2], colors["a"])]), "MB/s"),
            Panel("Bytes", lambda axes: bars(axes, [Bar("a", ((1, colors["a"]), (2, colors["b"])), "3")]), columns=6),
            Panel(
                "Wait",
                lambda axes: ranges(axes, [Range("b", 0.0, 1, 2, 3, 4, "2")], format_value=str),
                columns=6,
            ),
        ),
    )
    table = Table("All <of> it", ("mirror", "MB/s"), (("a & b", "\x1b[2J3"),), "By <hand>.")
    write_page(tmp_path / "bench.html", picture, [table])
    page = _well_formed(tmp_path / "bench.html")
    assert "All <of> it" in page.text
    assert "a & b" in page.text
    assert "?[2J3" in page.text
    write_page(tmp_path / "bench.PNG", picture)
    assert _size_of_png(tmp_path / "bench.PNG")[0] == 1950


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "old.html"
    path.write_text("old")
    broken = Picture("x", "y", (), (Panel("z", lambda axes: axes.no_such_piece()),))
    with pytest.raises(AttributeError):
        write_page(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
