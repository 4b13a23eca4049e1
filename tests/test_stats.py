"""The figures of reports, against a report whose numbers can be checked by hand."""

from __future__ import annotations

import itertools
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.events import Attempt, Decision, FileDone, Waited
from ci_modelcache.transfer.recorder import Recorder
from ci_modelcache.transfer.report import EVENTS
from ci_modelcache.verbs import measures
from ci_modelcache.verbs.figures import SnapshotStats, Spread, TokenStats
from ci_modelcache.verbs.measures import MOST_BINS, MOST_VALUES, Sample, TimelineBuilder
from ci_modelcache.verbs.stats import stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.transfer.events import Event
    from ci_modelcache.verbs.figures import SourceStats, StatsReport

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "report.jsonl"
INTERNAL, MIRROR, HUB = "https://hub.internal", "https://hf-mirror.example", "https://huggingface.co"


@pytest.fixture(scope="module")
def golden() -> StatsReport:
    return stats([GOLDEN])


def _source(report: StatsReport, name: str) -> SourceStats:
    (found,) = (one for one in report.sources if one.source == name)
    return found


# --- the golden report


def test_the_sources_come_by_what_they_sent_and_all_of_them_are_there(golden: StatsReport) -> None:
    assert [(one.source, one.attempts, one.received, one.used) for one in golden.sources] == [
        (INTERNAL, 3, 7_000_000, 7_000_000),
        (MIRROR, 3, 3_000_500, 3_000_500),
        ("s3://bucket/models", 0, 0, 100),
        (HUB, 1, 0, 0),
    ]
    assert (golden.total.source, golden.total.attempts, golden.total.received) == ("all", 7, 10_000_500)
    assert golden.total.used == 10_000_600


def test_errors_are_counted_by_cause_as_shares_of_all_attempts(golden: StatsReport) -> None:
    assert golden.total.causes == {"stalled": 1, "rate-limited": 1}
    assert golden.total.cause_rates == {"stalled": 1 / 7, "rate-limited": 1 / 7}
    assert (golden.total.failures, golden.total.error_rate) == (2, 2 / 7)
    internal = _source(golden, INTERNAL)
    assert (internal.failures, internal.error_rate, internal.causes) == (1, 1 / 3, {"stalled": 1})
    store = _source(golden, "s3://bucket/models")
    assert (store.failures, store.error_rate, store.causes) == (0, None, {})


def test_the_mean_speed_is_bytes_by_seconds_of_attempts_for_files(golden: StatsReport) -> None:
    assert _source(golden, INTERNAL).speed == 7_000_000 / 7.0
    assert golden.total.speed == pytest.approx(10_000_500 / 9.1)
    assert _source(golden, HUB).speed is None, "metadata are no download"


def test_only_downloads_that_tell_a_speed_are_slow_or_not(golden: StatsReport) -> None:
    """500 bytes in half a second are 1 kB/s, and tell nothing; a stall does."""
    assert (golden.total.speeds.count, golden.total.slow, golden.total.slow_share) == (4, 1, 0.25)
    assert golden.total.speeds.p50 == 2_000_000
    assert golden.total.speeds.p5 == pytest.approx(250_000 + 0.15 * 1_750_000)
    assert _source(golden, MIRROR).slow_share == 0.0
    assert _source(golden, HUB).slow_share is None
    assert stats([GOLDEN], slow_below=2_000_001).total.slow == 4
    assert stats([GOLDEN], slow_below=250_000).total.slow == 0


def test_the_time_to_the_first_byte_is_of_attempts_for_files_that_had_one(golden: StatsReport) -> None:
    assert attrs.astuple(_source(golden, INTERNAL).ttfb) == (3, *map(pytest.approx, (0.055, 0.075, 0.1, 0.15, 0.19)))
    assert _source(golden, MIRROR).ttfb.count == 2
    assert _source(golden, HUB).ttfb == Spread(0, None, None, None, None, None)
    assert golden.total.ttfb.count == 5


def test_a_retry_asks_for_bytes_that_an_attempt_of_the_same_run_had_failed_to_bring(golden: StatsReport) -> None:
    """Three files in the first run, one of them never proven, and one in the second, which retried nothing."""
    assert (golden.files, golden.proven, golden.retries, golden.retry_rate) == (4, 3, 1, 25.0)


def test_snapshots_are_counted_by_what_became_of_them(golden: StatsReport) -> None:
    assert golden.snapshots == SnapshotStats(
        local=1,
        hit=1,
        miss=1,
        failed={"Unavailable": 1},
        local_size=10_000_000,
        hit_size=30_000_000,
        miss_size=10_000_000,
        hit_ratio=2 / 3,
        hit_ratio_bytes=0.8,
        received=10_000_000,
        seconds=20.0,
        speed=500_000.0,
    )


def test_tokens_from_the_cache_are_no_requests(golden: StatsReport) -> None:
    assert golden.tokens == TokenStats(
        requests=2, failures=1, failure_rate=0.5, causes={"missing": 1}, cached=2, seconds=0.3
    )


def test_waits_and_decisions_are_counted_for_their_source_and_together(golden: StatsReport) -> None:
    assert (_source(golden, MIRROR).waits, _source(golden, MIRROR).waited) == (1, 2.0)
    assert (golden.total.waits, golden.total.waited) == (1, 2.0)
    assert (_source(golden, INTERNAL).decisions, golden.total.decisions) == (1, 1)


def test_the_report_says_what_it_has_read_and_what_it_has_not(golden: StatsReport) -> None:
    assert golden.reports == (str(GOLDEN),)
    assert golden.runs == {"restore": 1, "fetch": 1}
    assert (golden.since, golden.until) == (1000.0, 2006.0)
    assert golden.events == 23
    assert golden.skipped == {"weather": 1, "attempt.colour": 1}
    assert (golden.torn, golden.torn_count) == ((f"{GOLDEN}:25",), 1)


def test_the_timeline_has_all_bytes_at_their_time(golden: StatsReport) -> None:
    timeline = golden.timeline
    assert timeline.width == 0.25
    sums = {
        name: sum(each.received.get(name, 0) for each in timeline.bins) for name in (INTERNAL, MIRROR)
    }  # fmt: skip  # as one
    assert sums == {INTERNAL: pytest.approx(7_000_000), MIRROR: pytest.approx(3_000_500)}
    first = [each for each in timeline.bins if 1001 <= each.at < 1003]
    assert [each.received for each in first] == [{INTERNAL: 500_000.0}] * 8
    assert not [each for each in timeline.bins if 1011 <= each.at < 1999]


def test_several_reports_are_counted_together_and_their_runs_kept_apart(golden: StatsReport) -> None:
    twice = stats([GOLDEN, GOLDEN])
    assert (twice.files, twice.proven, twice.retries, twice.retry_rate) == (8, 6, 2, 25.0)
    assert twice.total.received == 2 * golden.total.received
    assert twice.snapshots.hit_ratio == golden.snapshots.hit_ratio
    assert twice.torn_count == 2


def test_no_report_at_all_has_no_figures(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    nothing = stats([tmp_path / "empty"])
    assert (nothing.sources, nothing.timeline.bins, nothing.since, nothing.retry_rate) == ((), (), None, None)
    assert nothing.total.error_rate is None
    with pytest.raises(ConfigError, match="cannot read the report"):
        stats([tmp_path / "none"])


# --- retries


@pytest.fixture
def count(tmp_path: Path) -> Callable[..., StatsReport]:
    """The figures of events of one run."""

    def count(*events: Event) -> StatsReport:
        path = tmp_path / "report.jsonl"
        path.unlink(missing_ok=True)
        with Recorder(
            path, version="1", command="restore", redact=str, clock=itertools.count(1000).__next__
        ) as recorder:
            for event in events:
                recorder.record(event)
        return stats([path])

    return count


def _attempt(start: int, stop: int | None, cause: str = "ok", *, path: str = "a") -> Attempt:
    return Attempt("s", path, start, stop, 1, 0.1, 0.1, cause)


CUT = "broken-off"


@pytest.mark.parametrize(
    ("attempts", "retries"),
    [
        ((_attempt(0, 10), _attempt(10, 20)), 0),
        ((_attempt(0, 10, CUT), _attempt(0, 10)), 1),
        ((_attempt(0, 10, CUT), _attempt(7, 10)), 1),
        ((_attempt(0, 10, CUT), _attempt(10, 20)), 0),
        ((_attempt(0, 10, CUT), _attempt(0, 10, path="b")), 0),
        ((_attempt(0, None, CUT), _attempt(5000, None)), 1),
        ((_attempt(0, 0, CUT), _attempt(0, 0)), 1),
        ((_attempt(0, 10, CUT), _attempt(3, 10, CUT), _attempt(5, 10)), 2),
        ((_attempt(0, 10, CUT), _attempt(10, 20, CUT), _attempt(12, 20), _attempt(4, 10)), 2),
        ((_attempt(0, 10, CUT), _attempt(0, 10), _attempt(0, 10)), 1),
        ((_attempt(0, 10, CUT, path=""), _attempt(0, 10, path="")), 0),
    ],
)
def test_an_attempt_is_a_retry_of_one_failure_at_most_and_only_of_its_own_bytes(
    attempts: tuple[Attempt, ...], retries: int, count: Callable[..., StatsReport]
) -> None:
    assert count(*attempts).retries == retries


def test_a_file_asked_for_again_after_it_was_proven_is_another_one(count: Callable[..., StatsReport]) -> None:
    done = FileDone("r", "a", 10, 1.0, {"s": 10})
    report = count(_attempt(0, 10, CUT), _attempt(0, 10), done, _attempt(0, 10), done, done)
    assert (report.files, report.proven, report.retries) == (2, 2, 1)


def test_more_sources_and_causes_than_anybody_has_are_counted_as_others(count: Callable[..., StatsReport]) -> None:
    report = count(*(Attempt(f"s{number}", "a", cause=f"c{number}") for number in range(600)))
    assert (len(report.sources), len(report.total.causes)) == (501, 501)
    assert (_source(report, "(others)").attempts, report.total.causes["(others)"]) == (100, 100)
    assert report.total.failures == 600


def test_a_source_that_was_only_waited_for_or_left_is_in_the_table(count: Callable[..., StatsReport]) -> None:
    report = count(Waited("w", 1.5, "429"), Decision("d", "barred"))
    assert [(one.source, one.waits, one.decisions) for one in report.sources] == [("d", 0, 1), ("w", 1, 0)]


@pytest.mark.parametrize(
    ("received", "seconds", "measured", "slow"),
    [
        (100_000, 4.0, 1, 1),
        (0, 1.0, 1, 1),
        (999_999, 0.9, 0, 0),
        (1_000_000, 0.9, 1, 0),
        (1_000_000, 1.0, 1, 0),
        (5, 0.0, 0, 0),
    ],
)
def test_a_trickle_is_slow_and_a_small_file_is_not(
    received: int, seconds: float, measured: int, slow: int, count: Callable[..., StatsReport]
) -> None:
    (source,) = count(Attempt("s", "a", 0, None, received, 0.0, seconds)).sources
    assert (source.speeds.count, source.slow) == (measured, slow)


# --- samples and times


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=60))
def test_percentiles_are_those_of_python(values: list[float]) -> None:
    sample = Sample()
    for value in values:
        sample.add(value)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    expected = [cuts[number - 1] for number in (5, 25, 50, 75, 95)]
    assert list(attrs.astuple(sample.spread())) == [len(values), *map(pytest.approx, expected)]


def test_one_value_is_all_of_its_percentiles() -> None:
    sample = Sample()
    sample.add(7.0)
    assert sample.spread() == Spread(1, 7.0, 7.0, 7.0, 7.0, 7.0)


def test_a_very_long_sample_is_thinned_evenly_and_stays_small() -> None:
    sample = Sample()
    for number in range(3 * MOST_VALUES):
        sample.add(number)
    assert len(sample._values) < MOST_VALUES
    assert sample.spread().count == 3 * MOST_VALUES
    assert sample.spread().p50 == pytest.approx(1.5 * MOST_VALUES, rel=0.001)
    assert sample.spread().p95 == pytest.approx(2.85 * MOST_VALUES, rel=0.001)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1e12), st.floats(0, 1e12)), max_size=30))
def test_no_byte_of_a_timeline_gets_lost_and_it_never_grows_long(attempts: list[tuple[int, float, float]]) -> None:
    builder = TimelineBuilder()
    for received, at, seconds in attempts:
        builder.add("s", received, begin=at - seconds, end=at)
    timeline = builder.timeline()
    assert len(timeline.bins) <= MOST_BINS
    assert [each.at for each in timeline.bins] == sorted({each.at for each in timeline.bins})
    total = sum(each.received.get("s", 0) for each in timeline.bins)
    assert total == pytest.approx(sum(received for received, _, _ in attempts))


def test_days_without_an_attempt_cost_no_bins() -> None:
    builder = TimelineBuilder()
    for day in range(30):
        builder.add("s", 100, begin=86_400.0 * day, end=86_400.0 * day + 1)
    assert builder.timeline().width == measures._NARROWEST
    assert len(builder.timeline().bins) <= 30 * 5


# --- docs/events.md

DOCUMENT = (ROOT / "docs" / "events.md").read_text()


def _section(heading: str) -> str:
    found = re.search(rf"^### `{heading}`\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/events.md has no section about {heading}"
    return found[1]


_WORDS: dict[object, str] = {
    str: "text",
    int: "number",
    float: "number",
    int | None: "number or null",
    float | None: "number or null",
    dict[str, int]: "object",
}


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.kind)
def test_every_event_and_each_of_its_fields_is_documented(kind: type) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| \S", _section(vars(kind)["kind"]), re.MULTILINE)
    hints = get_type_hints(kind)
    assert rows == [(field.name, _WORDS[hints[field.name]]) for field in attrs.fields(kind)]


def test_no_event_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^### `(\w+)`$", DOCUMENT, re.MULTILINE)
    assert documented == [kind.kind for kind in EVENTS]


def test_the_lines_that_the_document_shows_are_lines_of_a_report(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (tmp_path / "shown.jsonl").write_text(shown)
    report = stats([tmp_path / "shown.jsonl"])
    assert report.events == len(shown.splitlines())
    assert (report.skipped, report.torn_count) == ({}, 0)
