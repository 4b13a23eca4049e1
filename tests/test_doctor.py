"""`doctor`: every check says what it saw, and none of them ends the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

from ci_modelcache.cache.keys import MARKER
from ci_modelcache.errors import AccessDenied, BucketMissing, Unavailable
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.verbs.doctor import DoctorReport, doctor
from tests.contracts.store import put
from tests.parts.stores import Failing, IgnoringCreateOnly, Recording, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import REPO, SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.verbs import Bench


def examined(bench: Bench, *folders: Path, ref: str | None = REPO, write: bool = True) -> DoctorReport:
    return doctor(
        cache=bench.cache,
        upstream=bench.upstream,
        folders=folders,
        ref=None if ref is None else ModelRef.parse(ref),
        write=write,
        step=bench.step(),
    )


def statuses(report: DoctorReport) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def test_a_healthy_setup_is_ok_everywhere_and_nothing_is_left_behind(bench: Bench) -> None:
    report = examined(bench, bench.folder / "hf")
    assert statuses(report) == {
        "python": "ok",
        f"folder {bench.folder / 'hf'}": "ok",
        f"folder {bench.folder / 'state'}": "ok",
        "store": "ok",
        "store writes": "ok",
        "upstream": "ok",
    }
    assert report.exit_code == 0
    assert "initialised by the first save" in next(check.detail for check in report.checks if check.name == "store")
    assert list(bench.disk.scan("")) == []
    assert list((bench.folder / "hf").iterdir()) == []
    bench.fetch()
    assert "a store of format 1" in next(check.detail for check in examined(bench).checks if check.name == "store")


def test_only_what_is_asked_for_is_touched(bench: Bench) -> None:
    report = examined(bench, ref=None, write=False)
    assert {"store writes", "upstream"} & set(statuses(report)) == set()
    assert bench.hub.requests() == []


@pytest.mark.parametrize(
    ("error", "exit_code"), [(BucketMissing("no bucket"), 2), (AccessDenied("no"), 12), (Unavailable("down"), 11)]
)
def test_a_store_that_fails_is_told_with_its_exit_code_and_the_hub_is_looked_at_all_the_same(
    bench: Bench, error: AccessDenied, exit_code: int
) -> None:
    bench.store = Failing(bench.disk, lambda: error, touching(""))
    report = examined(bench)
    assert statuses(report)["store"] == "failed"
    assert statuses(report)["upstream"] == "ok"
    assert report.exit_code == exit_code


def test_a_store_that_cannot_be_opened_is_one_failed_check_among_the_others(bench: Bench) -> None:
    def closed() -> NoReturn:
        msg = "there is no such folder"
        raise BucketMissing(msg)

    report = doctor(
        cache=closed, upstream=bench.upstream, folders=(), ref=ModelRef.parse(REPO), write=True, step=bench.step()
    )
    assert [(check.name.split()[0], check.status) for check in report.checks] == [
        ("python", "ok"),
        ("folder", "ok"),
        ("store", "failed"),
        ("upstream", "ok"),
    ]
    assert report.exit_code == 2


@pytest.mark.parametrize("marker", [b'{"format": 99, "id": "x", "min_reader": 99}', b"<html>"])
def test_nothing_is_written_to_a_store_of_an_unknown_format(bench: Bench, marker: bytes) -> None:
    put(bench.disk, MARKER, marker)
    recording = Recording(bench.disk)
    bench.store = recording
    report = examined(bench)
    assert statuses(report)["store"] == "failed"
    assert report.exit_code in {2, 13}
    assert recording.keys("write") == []


def test_a_folder_that_may_not_be_written_is_a_refusal_not_a_mistake(bench: Bench) -> None:
    locked = bench.folder / "locked"
    locked.mkdir()
    with unprivileged(locked):
        assert examined(bench, locked).exit_code == 12


def test_a_store_that_ignores_create_only_is_a_warning_with_its_consequence(bench: Bench) -> None:
    bench.store = IgnoringCreateOnly(bench.disk)
    report = examined(bench)
    assert statuses(report)["store writes"] == "warning"
    assert report.exit_code == 0
    assert "nothing worse" in next(check.hint for check in report.checks if check.status == "warning")


def test_a_repository_that_may_not_be_seen_is_a_failure_without_the_token(bench: Bench) -> None:
    bench.repository.private = True
    report = examined(bench)
    assert report.exit_code == 12
    assert "HF_TOKEN" in report.checks[-1].hint
    assert SECRET not in str(report)


def test_folders_that_cannot_be_used_are_failures_not_crashes(bench: Bench) -> None:
    (bench.folder / "file").write_bytes(b"")
    (bench.folder / "state").write_bytes(b"")
    locked = bench.folder / "locked"
    locked.mkdir()
    with unprivileged(locked):
        report = examined(bench, bench.folder / "file", locked, locked / "below")
    failed = [check.name for check in report.checks if check.status == "failed"]
    assert failed == [f"folder {bench.folder / name}" for name in ("file", "locked", "locked/below", "state")]
    assert report.exit_code == 2
