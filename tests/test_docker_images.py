"""`docker inspect` and `docker verify` on a real engine: bytes decide, labels claim, and no image is ever run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen

from ci_modelcache.cli.main import main
from ci_modelcache.docker.engine import OWNED
from ci_modelcache.docker.labels import LABEL, ImageLayout, ImageModel, label_of
from ci_modelcache.layouts.hub_cache import HubCacheLayout
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from tests.parts.engine import Engine
from tests.parts.engine_wire import wire
from tests.parts.golden import GOLDEN
from tests.parts.snapshots import COMMIT, CONTENTS, REPO, fill, manifest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.model.manifest import Manifest

# The SDK leaves the socket of a connection that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

FILES = {**CONTENTS, "tokenizer/two words é.txt": "größe".encode(), "weights/big.bin": bytes(range(256)) * 20_000}
MANIFEST = manifest_of(FILES)
SIZE = sum(map(len, FILES.values()))
BOTH = pytest.mark.parametrize("layout", list(ImageLayout))
RUN = [sys.executable, "-m", "ci_modelcache"]


@pytest.fixture(autouse=True)
def no_litter() -> Iterator[None]:
    """None of it is collected in the test of somebody else."""
    yield
    gc.collect()


@frozen
class Verdict:
    """How a command ended: exit code, what it printed, and that as JSON."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        return json.loads(self.out)

    @property
    def model(self) -> Any:
        (model,) = self.report["models"]
        return model


@frozen
class Dock:
    """The engine, a folder to make images from, and the lock that they are compared with."""

    engine: Engine
    folder: Path
    run: Callable[..., Verdict]

    @property
    def root(self) -> Path:
        """What becomes the root of the next image."""
        return self.folder / "context" / "root"

    @property
    def lock(self) -> Path:
        return self.folder / "modelcache.lock"

    def lay(
        self, layout: ImageLayout = ImageLayout.PLAIN, *, models: str = "models", manifest: Manifest = MANIFEST
    ) -> Path:
        """Put the model below *models* in the root, as `restore` does; returns the folder that programs open."""
        below = self.root / models
        made = HubCacheLayout(below, REPO) if layout is ImageLayout.HUB else PlainLayout(below / REPO)
        made.root.mkdir(parents=True, exist_ok=True)
        fill(made, manifest, FILES)
        path = made.publish(manifest, ModelRef(REPO), full=True)
        for name in (".ci-modelcache", ".cache"):
            shutil.rmtree(made.root / name, ignore_errors=True)
        return path

    def build(self, *labels: str, extra: str = "") -> str:
        """An image of the root alone."""
        tag = self.engine.image("image")
        self.root.mkdir(parents=True, exist_ok=True)
        (self.folder / "context" / "Dockerfile").write_text(f"FROM scratch\nCOPY root/ /\n{extra}\n")
        done = self.engine.build(self.folder / "context", *(f"--label={LABEL}={one}" for one in labels), tag=tag)
        assert done.code == 0, done
        return tag

    def locks(self, *manifests: Manifest) -> None:
        """Write the lock."""
        models = (LockedModel.of(one, revision="main", selection=Selection()) for one in manifests)
        self.lock.write_text(Lock(tuple(models)).to_toml())

    def verify(self, image: str, *options: str) -> Verdict:
        return self.run("verify", image, "--lock-file", str(self.lock), *options, "--json")

    def left(self, image: str) -> str:
        """The containers that were made to read *image* and are still there."""
        (id_,) = json.loads(self.engine.docker("image", "inspect", image).output)
        return self.engine.docker("ps", "--all", "--quiet", f"--filter=label={OWNED}={id_['Id']}").output


@pytest.fixture
def dock(docker_environment: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dock:
    def run(*arguments: str) -> Verdict:
        capsys.readouterr()
        code = main(["docker", *arguments])
        return Verdict(code, *capsys.readouterr())

    dock = Dock(docker_environment, tmp_path, run)
    dock.locks(MANIFEST)
    return dock


def claim(
    manifest: Manifest = MANIFEST, *, root: str = "/models", layout: ImageLayout = ImageLayout.PLAIN
) -> ImageModel:
    locked = LockedModel.of(manifest, revision="main", selection=Selection())
    return ImageModel.of_locked(locked, root=root, layout=layout)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_hub_cache(path: Path) -> Path:
    """The file itself, where *path* is a link."""
    return path.resolve()


# --- verify


@BOTH
def test_an_image_with_the_right_bytes_is_proven_in_both_layouts(dock: Dock, layout: ImageLayout) -> None:
    dock.lay(layout)
    verdict = dock.verify(dock.build(label_of([claim(layout=layout)])))
    assert verdict.code == 0, verdict
    assert verdict.report["bytes_read"] >= SIZE
    model = verdict.model
    assert (model["result"], model["label"], model["layout"]) == ("ok", "same", layout.value)
    assert (model["files"], model["size"], model["commit"]) == (len(FILES), SIZE, COMMIT)
    assert (model["missing"], model["wrong"], model["extra"]) == ([], [], [])


@BOTH
def test_without_a_label_models_are_found_below_the_usual_folder(dock: Dock, layout: ImageLayout) -> None:
    dock.lay(layout)
    verdict = dock.verify(dock.build())
    assert (verdict.code, verdict.model["result"], verdict.model["label"]) == (0, "ok", "none")


@BOTH
def test_models_lie_where_the_label_says(dock: Dock, layout: ImageLayout) -> None:
    dock.lay(layout, models="opt/my models")
    verdict = dock.verify(dock.build(label_of([claim(root="/opt/my models", layout=layout)])))
    assert (verdict.code, verdict.model["result"]) == (0, "ok")
    assert verdict.model["path"].startswith("/opt/my models/")


@BOTH
def test_models_lie_where_the_user_says_whatever_the_label_does(dock: Dock, layout: ImageLayout) -> None:
    dock.lay(layout, models="elsewhere")
    image = dock.build(label_of([claim(layout=layout)]))
    assert dock.verify(image, "--path", "/elsewhere/").code == 0
    assert dock.verify(image).code == 10


@BOTH
def test_one_flipped_byte_is_named_with_both_digests(dock: Dock, layout: ImageLayout) -> None:
    path = in_hub_cache(dock.lay(layout) / "weights/big.bin")
    wrong = bytearray(FILES["weights/big.bin"])
    wrong[-1] ^= 1
    path.write_bytes(wrong)
    image = dock.build(label_of([claim(layout=layout)]))
    verdict = dock.verify(image)
    assert (verdict.code, verdict.model["result"], verdict.model["missing"]) == (13, "wrong", [])
    assert verdict.model["wrong"] == [
        {
            "path": "weights/big.bin",
            "expected": sha256(FILES["weights/big.bin"]),
            "actual": sha256(bytes(wrong)),
            "why": "other bytes",
        }
    ]
    said = dock.run("verify", image, "--lock-file", str(dock.lock)).out
    assert (
        f"wrong: weights/big.bin: other bytes: expected sha256 {sha256(FILES['weights/big.bin'])}, got {sha256(bytes(wrong))}"
        in said
    )
    assert said.splitlines()[-1].endswith("1 model not as promised by the lock")


@BOTH
def test_a_file_that_is_missing_is_named(dock: Dock, layout: ImageLayout) -> None:
    (dock.lay(layout) / "tokenizer/two words é.txt").unlink()
    image = dock.build()
    verdict = dock.verify(image)
    assert (verdict.code, verdict.model["result"]) == (13, "wrong")
    assert (verdict.model["missing"], verdict.model["wrong"]) == (["tokenizer/two words é.txt"], [])
    assert "  missing: tokenizer/two words é.txt" in dock.run("verify", image, "--lock-file", str(dock.lock)).out


@BOTH
def test_a_file_too_many_is_told_and_does_no_harm(dock: Dock, layout: ImageLayout) -> None:
    (dock.lay(layout) / "evil.py").write_text("print()")
    image = dock.build()
    verdict = dock.verify(image)
    assert (verdict.code, verdict.model["result"], verdict.model["extra"]) == (0, "ok", ["evil.py"])
    assert (
        "1 file there that the model does not have: evil.py"
        in dock.run("verify", image, "--lock-file", str(dock.lock)).out
    )


def test_another_commit_is_wrong_bytes_in_a_plain_folder(dock: Dock) -> None:
    dock.lay()
    dock.locks(manifest_of({**FILES, "config.json": b"{}"}, commit="f" * 40))
    verdict = dock.verify(dock.build(label_of([claim()])))
    assert (verdict.code, verdict.model["label"]) == (13, "other")
    assert [file["path"] for file in verdict.model["wrong"]] == ["config.json"]
    assert f"says that {REPO}@main is commit {COMMIT}, and the lock commit {'f' * 40}" in verdict.err


def test_another_commit_is_not_there_in_a_hub_cache(dock: Dock) -> None:
    dock.lay(ImageLayout.HUB)
    dock.locks(manifest_of(FILES, commit="f" * 40))
    verdict = dock.verify(dock.build(label_of([claim(layout=ImageLayout.HUB)])))
    assert (verdict.code, verdict.model["result"], verdict.model["label"]) == (10, "absent", "other")


def test_two_commits_in_one_hub_cache_are_both_proven_and_read_once(dock: Dock) -> None:
    other = manifest_of({**FILES, "config.json": FILES["onnx/model.onnx"]}, commit="f" * 40)
    for manifest in (MANIFEST, other):
        made = HubCacheLayout(dock.root / "models", REPO)
        fill(made, manifest, FILES if manifest is MANIFEST else {**FILES, "config.json": FILES["onnx/model.onnx"]})
        made.publish(manifest, ModelRef(REPO), full=True)
    models = [LockedModel.of(one, revision=one.commit, selection=Selection()) for one in (MANIFEST, other)]
    dock.lock.write_text(Lock(tuple(models)).to_toml())
    verdict = dock.verify(dock.build())
    assert verdict.code == 0, verdict
    assert verdict.report["bytes_read"] < 1.5 * SIZE


def test_a_wrong_label_on_right_bytes_is_told_and_the_bytes_decide(dock: Dock) -> None:
    dock.lay()
    lie = evolve(claim(), manifest=evolve(claim().manifest, hex="0" * 64), commit="0" * 40)
    image = dock.build(label_of([lie]))
    verdict = dock.verify(image)
    assert (verdict.code, verdict.model["result"], verdict.model["label"]) == (0, "ok", "other")
    assert f"is commit {'0' * 40}, and the lock commit {COMMIT}" in verdict.err
    assert (
        "the label of the image names another manifest" in dock.run("verify", image, "--lock-file", str(dock.lock)).out
    )


def test_a_right_label_on_wrong_bytes_helps_nothing(dock: Dock) -> None:
    (dock.lay() / "config.json").write_bytes(b"{}")
    assert dock.verify(dock.build(label_of([claim()]))).code == 13


def test_a_label_that_cannot_be_read_is_told_and_the_bytes_decide(dock: Dock) -> None:
    dock.lay()
    verdict = dock.verify(dock.build("nonsense"))
    assert (verdict.code, verdict.model["label"]) == (0, "none")
    assert "its label is not read" in verdict.err


def test_a_model_that_is_not_there_at_all_is_a_miss(dock: Dock) -> None:
    image = dock.build(extra="WORKDIR /models")
    verdict = dock.verify(image)
    assert (verdict.code, verdict.model["result"], verdict.model["path"]) == (10, "absent", f"/models/{REPO}")
    assert f"absent: {REPO}@main" in dock.run("verify", image, "--lock-file", str(dock.lock)).out


def test_what_is_wrong_weighs_more_than_what_is_absent(dock: Dock) -> None:
    (dock.lay() / "config.json").write_bytes(b"{}")
    dock.locks(evolve(MANIFEST, repo="other/model"), MANIFEST)
    verdict = dock.verify(dock.build())
    assert [model["result"] for model in verdict.report["models"]] == ["absent", "wrong"]
    assert verdict.code == 13


def test_links_are_followed_inside_of_the_folder_and_no_further(dock: Dock) -> None:
    path = dock.lay()
    (dock.root / "etc").mkdir()
    (dock.root / "etc" / "secret").write_bytes(FILES["config.json"])
    (path / "config.json").unlink()
    (path / "config.json").symlink_to("/etc/secret")
    (path / "model.safetensors").rename(path / "real")
    (path / "model.safetensors").symlink_to("real")
    verdict = dock.verify(dock.build())
    assert verdict.code == 13
    assert [(file["path"], file["actual"], file["why"]) for file in verdict.model["wrong"]] == [
        ("config.json", "", "expected a file, got a link that leads out of the folder, to '/etc/secret'")
    ]
    assert verdict.model["extra"] == ["real"]


def test_a_folder_of_models_may_be_a_link_itself(dock: Dock) -> None:
    dock.lay(models="data/v1")
    (dock.root / "models").symlink_to("data/v1")
    (dock.root / "opt").mkdir()
    (dock.root / "opt" / "tiny").symlink_to("../data/v1/tiny")
    image = dock.build()
    assert dock.verify(image).code == 0
    assert dock.verify(image, "--path", "/opt").code == 0


def test_the_folder_of_one_model_within_that_of_another_is_not_too_much(dock: Dock) -> None:
    outer = evolve(MANIFEST, repo="tiny")
    made = PlainLayout(dock.root / "models" / "tiny")
    made.root.mkdir(parents=True)
    fill(made, outer, FILES)
    made.publish(outer, ModelRef("tiny"), full=True)
    dock.lay()
    (dock.root / "models/tiny/more").write_text("")
    dock.locks(outer, MANIFEST)
    verdict = dock.verify(dock.build())
    assert [model["extra"] for model in verdict.report["models"]] == [["more"], []]


def test_files_of_later_layers_stand_above_those_of_earlier_ones(dock: Dock) -> None:
    dock.lay()
    (dock.folder / "context" / "config.json").write_bytes(b"{}")
    verdict = dock.verify(dock.build(extra=f"COPY config.json /models/{REPO}/config.json"))
    assert [file["path"] for file in verdict.model["wrong"]] == ["config.json"]


# --- without a lock


@pytest.fixture
def store(dock: Dock) -> Path:
    """A store that has the manifest, and nothing else."""
    folder = dock.folder / "store"
    store = DirectoryStore(folder, create=True)
    documents = {
        "modelcache.json": (GOLDEN / "store" / "modelcache.json").read_bytes(),
        f"manifests/sha256/{MANIFEST.digest.hex[:2]}/{MANIFEST.digest.hex}": MANIFEST.to_json(),
    }
    for key, data in documents.items():
        store.write(key, [data], size=len(data))
    return folder


@BOTH
def test_without_a_lock_the_label_names_manifests_that_the_store_has(
    dock: Dock, store: Path, layout: ImageLayout
) -> None:
    dock.lay(layout)
    verdict = dock.verify(dock.build(label_of([claim(layout=layout)])), "--no-locked", "--store", str(store))
    assert verdict.code == 0, verdict
    assert (verdict.report["anchor"], verdict.model["result"]) == ("label", "ok")
    assert verdict.model["ref"] == f"{REPO}@main"


def test_without_a_lock_wrong_bytes_are_as_wrong(dock: Dock, store: Path) -> None:
    (dock.lay() / "config.json").write_bytes(b"{}")
    assert dock.verify(dock.build(label_of([claim()])), "--no-locked", "--store", str(store)).code == 13


def test_without_a_lock_an_image_without_label_is_a_miss(dock: Dock, store: Path) -> None:
    dock.lay()
    verdict = dock.verify(dock.build(), "--no-locked", "--store", str(store))
    assert verdict.code == 10
    assert f"has no label {LABEL}" in verdict.err + verdict.out


def test_without_a_lock_a_manifest_that_the_store_lacks_is_a_miss(dock: Dock, store: Path) -> None:
    dock.lay()
    other = evolve(claim(), manifest=evolve(claim().manifest, hex="0" * 64))
    assert dock.verify(dock.build(label_of([other])), "--no-locked", "--store", str(store)).code == 10


def test_without_a_lock_a_label_that_cannot_be_read_is_a_failure(dock: Dock, store: Path) -> None:
    dock.lay()
    assert dock.verify(dock.build("[{}]"), "--no-locked", "--store", str(store)).code == 13


def test_without_a_lock_file_the_other_way_is_named(dock: Dock) -> None:
    dock.lock.unlink()
    verdict = dock.verify("any")
    assert verdict.code == 2
    assert "--no-locked" in verdict.report["error"]["hint"]


def test_where_no_model_is_named_nothing_is_called_right(dock: Dock, store: Path) -> None:
    dock.locks()
    image = dock.build("[]", extra="WORKDIR /x")
    assert dock.verify(image).code == 2
    assert dock.verify(image, "--no-locked", "--store", str(store)).code == 10


def test_a_folder_of_the_image_is_absolute(dock: Dock) -> None:
    verdict = dock.verify("any", "--path", "models")
    assert verdict.code == 2
    assert "--path is a folder of the image, and absolute" in verdict.report["error"]["message"]


# --- nothing is run, and nothing is left


def test_the_image_is_never_run_and_nothing_of_the_reading_stays(dock: Dock) -> None:
    """Also what the engine makes by itself: a volume for each VOLUME of the image."""
    dock.lay()
    image = dock.build(extra=f'VOLUME /models/{REPO}\nENTRYPOINT ["/never"]')
    since = str(time.time())
    assert dock.verify(image).code == 0
    assert dock.left(image) == ""
    seen = dock.engine.docker("events", f"--since={since}", f"--until={time.time()}", "--format={{json .}}").output
    events = [json.loads(line) for line in seen.splitlines()]
    ours = [event for event in events if OWNED in event["Actor"]["Attributes"]]
    assert {event["Action"] for event in ours if event["Type"] == "container"} == {"create", "archive-path", "destroy"}
    names = {event["Actor"]["Attributes"]["container"] for event in events if event["Action"] == "mount"}
    assert {event["Actor"]["ID"] for event in ours} >= names
    volumes = [event["Actor"]["ID"] for event in events if event["Type"] == "volume" and event["Action"] == "create"]
    assert volumes
    there = dock.engine.docker("volume", "ls", "--quiet").output.split()
    assert not set(volumes) & set(there)


def test_wrong_bytes_leave_no_container_either(dock: Dock) -> None:
    (dock.lay() / "config.json").write_bytes(b"{}")
    image = dock.build()
    assert dock.verify(image).code == 13
    assert dock.left(image) == ""


@pytest.mark.parametrize("after", [0, 100_000])
def test_an_engine_that_stalls_while_reading_ends_at_the_deadline_and_leaves_no_container(
    dock: Dock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    dock.lay()
    image = dock.build()
    with wire(dock.engine.host) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.host)
        relay.kind, relay.after = "stall", after
        started = time.monotonic()
        verdict = dock.verify(image, "--deadline", "3s")
        assert time.monotonic() - started < 40
        assert verdict.code == 15, verdict
    assert dock.left(image) == ""


@pytest.mark.parametrize("after", [0, 150, 100_000])
def test_an_archive_that_breaks_off_is_an_outage_and_no_missing_file(
    dock: Dock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    dock.lay()
    image = dock.build()
    with wire(dock.engine.host) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.host)
        relay.kind, relay.after = "cut", after
        verdict = dock.verify(image)
        assert verdict.code == 11, verdict
    assert dock.left(image) == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("deadline", ["30m", "0"])
def test_an_interruption_leaves_no_container(dock: Dock, number: signal.Signals, deadline: str) -> None:
    """With a deadline another thread reads, without one the main thread does."""
    dock.lay()
    image = dock.build()
    with wire(dock.engine.host) as relay:
        relay.kind, relay.after = "stall", 100_000
        command = [*RUN, "docker", "verify", image, "--lock-file", str(dock.lock)]
        command += ["--deadline", deadline] if deadline != "0" else []
        environ = {**os.environ, "DOCKER_HOST": relay.host}
        with subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert relay.reached.wait(60)
            time.sleep(0.2)
            process.send_signal(number)
            err = process.communicate(timeout=60)[1]
        assert process.returncode == 130, err
    assert dock.left(image) == ""


def test_a_container_that_cannot_be_removed_is_named(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    dock.lay()
    image = dock.build()
    with wire(dock.engine.host) as relay:
        monkeypatch.setenv("DOCKER_HOST", relay.host)
        relay.kind, relay.having, relay.after = "cut", b"DELETE ", 0
        verdict = dock.verify(image)
    assert verdict.code == 0
    (line,) = (line for line in verdict.err.splitlines() if "left behind" in line)
    name = line.rpartition("docker rm -v ")[2].split()[0]
    dock.engine.docker("rm", "-v", name)
    assert dock.left(image) == ""


# --- inspect


def test_inspect_shows_the_models_of_a_label_below_each_other(dock: Dock) -> None:
    dock.lay()
    dock.lay(ImageLayout.HUB, models="hub")
    models = [claim(), evolve(claim(root="/hub", layout=ImageLayout.HUB), revision="v1.0")]
    image, bare = dock.build(label_of(models)), dock.build()
    shown = dock.run("inspect", image, bare)
    assert shown.code == 0
    head, names, *rest = shown.out.splitlines()
    assert head.startswith(f"{image}: ")
    assert "linux/amd64" in head
    assert head.endswith(" in 1 layer")
    assert names.split() == ["MODEL", "COMMIT", "DIGEST", "PATH", "LAYOUT"]
    digest = MANIFEST.set_digest.hex[:12]
    assert [line.split(maxsplit=4) for line in rest[:2]] == [
        [f"{REPO}@v1.0", COMMIT[:12], digest, models[1].path, "Hub cache"],
        [f"{REPO}@main", COMMIT[:12], digest, models[0].path, "plain"],
    ]
    assert rest[2] == ""
    assert "no label io.ci-modelcache.models" in rest[4]
    assert "ci-modelcache docker build" in rest[4]


def test_inspect_for_machines_has_all_of_it(dock: Dock) -> None:
    dock.lay()
    image = dock.build(label_of([claim()]))
    (report,) = dock.run("inspect", image, "--json").report["images"]
    (plain,) = json.loads(dock.engine.docker("image", "inspect", image).output)
    assert (report["image"], report["id"], report["size"]) == (image, plain["Id"], plain["Size"])
    assert report["layers"] == plain["RootFS"]["Layers"]
    assert image in report["tags"]  # the same bytes may have other names, too
    assert report["models"] == json.loads(plain["Config"]["Labels"][LABEL])
    assert report["problem"] == ""
    by_id = dock.run("inspect", plain["Id"], "--json").report["images"]
    assert [one["id"] for one in by_id] == [plain["Id"]]


def test_inspect_of_a_label_that_cannot_be_read_says_so_with_exit_code_13(dock: Dock) -> None:
    image = dock.build("[]\u0007", extra="WORKDIR /x")
    shown = dock.run("inspect", image)
    assert shown.code == 13
    assert "BROKEN: the label io.ci-modelcache.models is not JSON" in shown.out
    assert dock.run("inspect", image, "--json").report["images"][0]["problem"]
