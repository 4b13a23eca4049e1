"""
Kill -9 at seeded points of save, fetch and restore: nothing wrong is ever left at a final path, and the next run succeeds.

Each seed is one test; `pytest -k "crash and fetch and 17"` runs one alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen

from ci_modelcache.cache.keys import snapshot_of
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.model.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPO = {"few": "acme/crash", "big": "acme/crash-big"}
FEW = {
    "config.json": b'{"model_type": "bert"}',
    "empty.txt": b"",
    "nested/deep/vocab.txt": b"".join(b"%d\n" % n for n in range(40_000)),
    "nested/copy.json": b'{"model_type": "bert"}',
    "model.safetensors": random.Random(1).randbytes(3_000_000),
}
BIG = {**FEW, "big.bin": random.Random(2).randbytes(17 * 1024 * 1024)}
"""With a file that has a leaf list: killed less often, as it takes longer."""
FILES = {"few": FEW, "big": BIG}
COMMANDS = ("save", "fetch", "restore-cached", "restore-plain")
SEEDS = [(command, files, seed) for command in COMMANDS for files, n in (("few", 55), ("big", 5)) for seed in range(n)]
"""240 kills in all."""
STAGING = ".ci-modelcache"


@frozen
class Scene:
    """One command line with folders of its own; *places* are the destinations that it writes to."""

    argv: tuple[str | Path, ...]
    repo: str
    files: dict[str, bytes]
    state: Path
    store: Path
    places: tuple[Path, ...]


class Victims:
    """The zygote of `tests/parts/victim.py`."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.parts.victim"],
            cwd=Path(__file__).parent.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, scene: Scene, *, kill_at: int = 0) -> tuple[int, int]:
        """Exit code, or negative signal, and the number of counted calls of a run that was not killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {
            "argv": [str(argument) for argument in scene.argv],
            "environ": {"CI_MODELCACHE_STATE": str(scene.state)},
            "kill_at": kill_at,
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer["status"], answer["calls"]

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    started = Victims(tmp_path_factory.mktemp("victims"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub(cdn=False) as running:
        for files, repo in REPO.items():
            running.add_repo(repo, {"main": FILES[files]})
        yield running


@pytest.fixture(scope="module")
def calls(victims: Victims, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], int]:
    """How many calls each command makes when nobody kills it: kills are spread over these."""
    counted = {}
    for command, files in itertools.product(COMMANDS, FILES):
        scene = prepare(command, files, hub, tmp_path_factory.mktemp("count"))
        status, counted[command, files] = victims.run(scene)
        assert status == 0
        check(scene, complete=True)
    return counted


def prepare(command: str, files: str, hub: LoopbackHub, folder: Path) -> Scene:
    """The scene of *command*: what it needs exists, what it makes does not."""
    store, plain, cached, source = (folder / name for name in ("store", "plain", "cached", "source"))
    common = ("--store", store, "--endpoint", hub.url, "-q")
    if command == "save":
        for path, content in FILES[files].items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
    argv: dict[str, tuple[str | Path, ...]] = {
        "save": ("save", source, f"{REPO[files]}@v1"),
        "fetch": ("fetch", REPO[files]),
        "restore-cached": ("restore", REPO[files], "--hub-cache", cached),
        "restore-plain": ("restore", REPO[files], "--to", plain, "--normalize"),
    }
    places = {"restore-cached": (cached,), "restore-plain": (plain,)}.get(command, ())
    return Scene((*argv[command], *common), REPO[files], FILES[files], folder / "state", store, places)


def check(scene: Scene, *, complete: bool) -> None:
    """No name that anybody looks at leads to wrong bytes; when *complete*, everything is there and nothing else."""
    commits = check_store(scene.store, scene.files)
    assert commits or not complete
    for place in scene.places:
        if place.name == "plain":
            check_plain(place, scene.files, complete=complete)
        else:
            check_cached(place / f"models--{scene.repo.replace('/', '--')}", scene.files, complete=complete)


def check_store(store: Path, files: dict[str, bytes]) -> set[str]:
    """Objects named by a digest have it, and each ref leads to a whole snapshot of the right bytes; returns its commit."""
    for kind in ("blobs", "leaves", "manifests"):
        for named in (store / kind).rglob("*"):
            if named.is_file():
                assert hashlib.sha256(named.read_bytes()).hexdigest() == named.name.partition(".")[0]
    commits = set()
    for ref in (store / "refs").rglob("*.json"):
        digest = json.loads(ref.read_bytes())["manifest"]
        manifest = Manifest.from_json((store / "manifests" / "sha256" / digest[:2] / digest).read_bytes())
        assert snapshot_of(ref.relative_to(store).as_posix()) == manifest.id
        for file in manifest.files:
            blob = store / "blobs" / "sha256" / file.sha256.hex[:2] / file.sha256.hex[2:4] / file.sha256.hex
            assert blob.read_bytes() == files[file.path]
        assert {file.path for file in manifest.files} == set(files)
        commits.add(manifest.commit)
    for head in (store / "heads").rglob("*.json"):
        assert json.loads(head.read_bytes())["commit"] in commits
    return commits


def check_plain(place: Path, files: dict[str, bytes], *, complete: bool) -> None:
    """Every file outside the staging folder is whole and right."""
    found = {
        file.relative_to(place).as_posix(): file.read_bytes()
        for file in place.rglob("*")
        if file.is_file() and STAGING not in file.parts
    }
    assert all(files[path] == content for path, content in found.items())
    if complete:
        assert set(found) == set(files)
        assert not (place / STAGING).exists()


def check_cached(repository: Path, files: dict[str, bytes], *, complete: bool) -> None:
    """Every blob is what its name says, and a ref only ever leads to a whole snapshot."""
    for blob in (repository / "blobs").glob("*"):
        content = blob.read_bytes()
        names = {hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        assert blob.name in names
    for ref in (repository / "refs").rglob("*"):
        snapshot = repository / "snapshots" / ref.read_text()
        assert {path: (snapshot / path).read_bytes() for path in files} == files
    if complete:
        assert (repository / "refs" / "main").is_file()
        assert not list(repository.rglob(".landing-*"))


def killed(victims: Victims, scenes: Iterable[Scene], kill_at: int) -> Scene:
    """
    The first of *scenes* whose run was killed.

    Threads and sockets make the count of calls vary: a kill near the end may come too late, and then one is tried earlier.
    """
    for share, scene in zip((1.0, 0.8, 0.5, 0.2), scenes, strict=False):
        status, _ = victims.run(scene, kill_at=max(1, int(share * kill_at)))
        assert status in {-signal.SIGKILL, 0}
        check(scene, complete=status == 0)
        if status:
            return scene
    pytest.fail("every kill came too late")


@pytest.mark.parametrize(("command", "files", "seed"), SEEDS)
def test_a_killed_run_leaves_nothing_wrong_and_the_next_one_succeeds(
    command: str,
    files: str,
    seed: int,
    victims: Victims,
    hub: LoopbackHub,
    calls: dict[tuple[str, str], int],
    tmp_path: Path,
) -> None:
    kill_at = random.Random(f"{command} {files} {seed}").randint(1, calls[command, files])
    scenes = (prepare(command, files, hub, tmp_path / str(number)) for number in itertools.count())
    scene = killed(victims, scenes, kill_at)

    status, _ = victims.run(scene)
    assert status == 0
    check(scene, complete=True)
