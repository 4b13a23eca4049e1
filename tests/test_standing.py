"""What is remembered of mirrors between runs: decisions, which one process makes while another looks on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.sources.health import Health
from ci_modelcache.sources.standing import Standing

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://hub.internal"
NOW = 1_800_000_000.0


def standing(folder: Path) -> Standing:
    return Standing(folder / "mirrors.json", clock=lambda: NOW)


def health(decided: str) -> Health:
    return Health(attempts=1, seen=NOW, decided=decided)


def test_a_decision_outlasts_the_run_that_made_it(tmp_path: Path) -> None:
    standing(tmp_path).save({URL: health("asked: the fastest")})
    assert standing(tmp_path).load()[URL].decided == "asked: the fastest"


def test_who_decided_nothing_does_not_undo_what_another_decided_meanwhile(tmp_path: Path) -> None:
    standing(tmp_path).save({URL: health("asked: the fastest")})
    one, other = standing(tmp_path), standing(tmp_path)
    seen, also_seen = one.load(), other.load()
    seen[URL].decided = "left alone for 30 s"
    also_seen[URL].attempts += 1
    one.save(seen)
    other.save(also_seen)
    assert standing(tmp_path).load()[URL].decided == "left alone for 30 s"


def test_the_newest_of_two_decisions_stays(tmp_path: Path) -> None:
    one, other = standing(tmp_path), standing(tmp_path)
    one.save({URL: health("asked: the fastest")})
    other.save({URL: health("asked: not measured yet")})
    assert standing(tmp_path).load()[URL].decided == "asked: not measured yet"


def test_a_decision_that_quotes_a_long_error_is_cut(tmp_path: Path) -> None:
    standing(tmp_path).save({URL: health("x" * 10_000)})
    assert len(standing(tmp_path).load()[URL].decided) == 500


def test_a_number_too_large_for_any_counts_as_nothing_known(tmp_path: Path) -> None:
    standing(tmp_path).save({URL: health("asked: the fastest")})
    kept = tmp_path / "mirrors.json"
    kept.write_text(kept.read_text().replace('"attempts": 1', f'"attempts": 1{"0" * 400}'))
    assert standing(tmp_path).load() == {}
