"""`save`: a directory becomes a snapshot, named as git would name its tree, or nothing happens."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DigestMismatch,
    IntegrityError,
    ModelCacheError,
    SizeMismatch,
    UnsafePath,
)
from ci_modelcache.model.digest import LEAF_SIZE
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.verbs.save import LFS_OVER, save
from ci_modelcache.verbs.step import Step
from tests.parts.hub import TINY
from tests.parts.stores import Failing, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import Ledger, Meanwhile, files_in, write_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.verbs import Bench

REF = "acme/saved@v1"
MODEL = {
    "config.json": b"{}\n",
    "sub/weights.bin": b"weights",
    "sub.txt": b"sorts between",
    "empty": b"",
    "run.sh": b"#!",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_files(tmp_path / "source", MODEL)
    (folder / "run.sh").chmod(0o755)
    return folder


def restored(bench: Bench, ref: str = REF) -> dict[str, bytes]:
    bench.restore(ref, upstream=bench.offline, prune_extra=True)
    return files_in(bench.folder / "model")


def nothing_is_saved(bench: Bench) -> None:
    bench.check_invariants()
    assert not (bench.disk.root / "refs").exists()
    assert not (bench.disk.root / "heads").exists()
    assert bench.hub.requests() == []


def test_what_is_saved_is_restored_offline_and_saving_again_uploads_nothing(bench: Bench, source: Path) -> None:
    report = bench.save(source)
    size = sum(map(len, MODEL.values()))
    assert (report.files, report.size, report.bytes_uploaded) == (len(MODEL), size, size)
    bench.ledger.check()
    bench.check_invariants()
    again = bench.save(source)
    assert (again.commit, again.manifest, again.bytes_uploaded) == (report.commit, report.manifest, 0)
    bench.ledger.check()
    assert restored(bench) == MODEL
    assert restored(bench, f"acme/saved@{report.commit}") == MODEL
    assert bench.hub.requests() == []


def test_a_saved_name_does_not_grow_old(bench: Bench, source: Path) -> None:
    bench.save(source)
    bench.time += 10_000 * 3600
    report = bench.restore(REF)
    assert (report.result, report.stale, bench.hub.requests()) == ("hit", False, [])


def test_a_saved_name_can_be_given_to_another_content(bench: Bench, source: Path) -> None:
    first = bench.save(source)
    (source / "config.json").write_bytes(b'{"new": 1}\n')
    second = bench.save(source)
    assert first.commit != second.commit
    assert second.bytes_uploaded == len(b'{"new": 1}\n')
    assert restored(bench)["config.json"] == b'{"new": 1}\n'
    assert restored(bench, f"acme/saved@{first.commit}") == MODEL


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "core.fileMode=true", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, input=data, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_the_commit_is_what_git_calls_the_tree(bench: Bench, source: Path) -> None:
    write_files(source, {"sub-b/x": b"1", "sub/a/é ü": b"2", "sub.d/y": b"3", "Sue": b"4"})
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    report = bench.save(source)
    assert report.commit == git(source, "write-tree")
    assert not any(path.startswith(".git/") for path in restored(bench))


def test_a_large_file_counts_as_its_lfs_pointer_as_on_the_hub(bench: Bench, source: Path) -> None:
    large = os.urandom(LEAF_SIZE + 1)
    (source / "large.safetensors").write_bytes(large)
    (source / "limit.bin").write_bytes(bytes(LFS_OVER))
    report = bench.save(source)
    git(source, "init", "--quiet")
    git(source, "add", "--all", ":!large.safetensors")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(large).hexdigest()}\nsize {len(large)}\n"
    oid = git(source, "hash-object", "-w", "--stdin", data=pointer.encode())
    git(source, "update-index", "--add", "--cacheinfo", f"100644,{oid},large.safetensors")
    assert report.commit == git(source, "write-tree")
    assert restored(bench)["large.safetensors"] == large


def test_a_link_inside_is_saved_as_what_it_leads_to(bench: Bench, source: Path) -> None:
    (source / "link.json").symlink_to("config.json")
    bench.save(source)
    assert restored(bench) == {**MODEL, "link.json": MODEL["config.json"]}


def test_a_snapshot_folder_of_a_hub_cache_can_be_saved(bench: Bench) -> None:
    bench.restore(layout=bench.hub_cache())
    bench.hub.forget()
    report = bench.save(bench.hub_cache().snapshot_path(bench.commit))
    assert report.bytes_uploaded == 0
    assert restored(bench) == TINY


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("/etc/hostname", "outside"),
        ("../other", "outside"),
        ("nowhere", "leads nowhere"),
        ("loop", "leads nowhere"),
        ("sub", "a folder"),
    ],
)
def test_other_links_are_refused_unless_left_out(bench: Bench, source: Path, goal: str, said: str) -> None:
    write_files(source.parent, {"other": b"other"})
    (source / "loop").symlink_to(goal)
    with pytest.raises(UnsafePath, match=said) as caught:
        bench.save(source)
    assert "--exclude" in str(caught.value.hint)
    nothing_is_saved(bench)
    bench.save(source, selection=Selection(exclude=("loop",)))
    assert restored(bench) == MODEL


def test_what_is_no_file_is_refused_and_does_not_hang(bench: Bench, source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(UnsafePath, match="no regular file"):
        bench.save(source)


@pytest.mark.parametrize(
    "name", ["back\\slash", "line\nbreak", "e\u0301.txt", b"\xff.bin", "con", "a:b", "trailing.", "Config.JSON"]
)
def test_names_that_could_not_be_restored_everywhere_are_refused(bench: Bench, source: Path, name: str | bytes) -> None:
    target = os.path.join(os.fsencode(source), os.fsencode(name))  # noqa: PTH118  # a name that is no text
    with open(target, "wb"):  # noqa: PTH123  # as above
        pass
    with pytest.raises(UnsafePath) as caught:
        bench.save(source)
    assert caught.value.exit_code == 13
    nothing_is_saved(bench)


def test_git_and_the_notes_of_downloaders_are_left_out(bench: Bench, source: Path) -> None:
    write_files(
        source,
        {
            ".git/config": b"x",
            "sub/.git": b"gitdir: x",
            ".cache/huggingface/x": b"x",
            ".landing-x": b"x",
            ".cache/own": b"kept",
        },
    )
    bench.save(source)
    assert restored(bench) == {**MODEL, ".cache/own": b"kept"}


@pytest.mark.parametrize("unreadable", ["config.json", "sub"])
def test_what_cannot_be_read_is_a_refusal_and_never_left_out(bench: Bench, source: Path, unreadable: str) -> None:
    with unprivileged(source / unreadable, mode=0o000), pytest.raises(AccessDenied) as caught:
        bench.save(source)
    assert caught.value.exit_code == 12
    assert caught.value.hint
    nothing_is_saved(bench)


@pytest.mark.parametrize("change", ["same size", "longer", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_saved_is_not_saved(bench: Bench, source: Path, change: str) -> None:
    """After its hash was taken and before it is uploaded."""

    def change_it() -> None:
        path = source / "sub/weights.bin"
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes({"same size": b"WEIGHTS", "longer": b"weights!", "shorter": b"w"}[change])

    bench.store = Meanwhile(bench.disk, change_it, touching("intents/", "write"))
    kind: type[IntegrityError] = {"same size": DigestMismatch, "gone": IntegrityError}.get(change, SizeMismatch)
    with pytest.raises(kind) as caught:
        bench.save(source)
    assert "something else writes there" in str(caught.value.hint)
    nothing_is_saved(bench)


def test_a_file_that_grows_as_fast_as_it_is_read_does_not_hang(bench: Bench, source: Path) -> None:
    growing = source / "sub/weights.bin"

    class Growing(Ledger):
        def advance(self, count: int) -> None:
            super().advance(count)
            with growing.open("ab") as file:
                file.write(bytes(1000))

    step = Step(bench.folder / "state", retry=bench.retry(), progress=Growing(), workers=1)
    with pytest.raises(SizeMismatch):
        save(source, ModelRef.parse(REF), host=bench.host, selection=Selection(), cache=bench.cache(), step=step)


@pytest.mark.parametrize("what", ["missing", "file", "empty", "only git"])
def test_nothing_to_save_is_a_usage_error(bench: Bench, tmp_path: Path, what: str) -> None:
    target = tmp_path / "target"
    if what == "file":
        target.write_bytes(b"x")
    elif what != "missing":
        write_files(target, {".git/config": b"x"} if what == "only git" else {})
        target.mkdir(exist_ok=True)
    with pytest.raises(ConfigError) as caught:
        bench.save(target)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    nothing_is_saved(bench)


def test_a_commit_is_no_name_to_save_under(bench: Bench, source: Path) -> None:
    with pytest.raises(ConfigError, match="its commit follows from its content"):
        bench.save(source, f"acme/saved@{'a' * 40}")


def test_patterns_choose_what_is_saved(bench: Bench, source: Path) -> None:
    bench.save(source, selection=Selection(include=("*.json", "sub/"), exclude=("*.bin",)))
    assert restored(bench) == {"config.json": MODEL["config.json"]}


def test_a_store_that_fails_half_way_holds_no_half_snapshot(bench: Bench, source: Path) -> None:
    bench.store = Failing(bench.disk, lambda: ModelCacheError("broken"), touching("manifests/", "write"))
    with pytest.raises(ModelCacheError, match="broken"):
        bench.save(source)
    nothing_is_saved(bench)
    bench.store = bench.disk
    assert bench.save(source).bytes_uploaded == 0
    shutil.rmtree(source)
    assert restored(bench) == MODEL


def test_a_branch_of_the_hub_is_not_taken_over(bench: Bench) -> None:
    """Whoever restores that branch would get another model, with exit code 0."""
    bench.restore()
    before = bench.ref_file().read_bytes()
    source = bench.folder / "other"
    source.mkdir()
    (source / "config.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="is a branch or tag of"):
        bench.save(source, "acme/tiny@main")
    assert bench.ref_file().read_bytes() == before
