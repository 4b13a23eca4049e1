"""`ci-modelcache docker context`: the models in a build context, and nothing else of ours; as a folder, and as a stream."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve, frozen

from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parts.engine import Engine
    from tests.parts.images import Layer, Member

BIG = bytes(range(256)) * 90_000
"""More than one leaf."""
NAME = {
    "config.json": b'{"a": 1}',
    "model.safetensors": BIG,
    "run.sh": b"#!/bin/sh\n",
    'sub dir/it\'s $x [1]* "é模型".bin': b"odd",
}
OTHER = {"config.json": b"{}"}
MODELS = "modelcache/models"


@frozen
class Place:
    """A project with a lock and a build context ``app`` in it."""

    root: Path
    hub: LoopbackHub
    capsys: pytest.CaptureFixture[str]

    @property
    def app(self) -> Path:
        return self.root / "app"

    def run(self, line: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        code = main(shlex.split(line))
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def must(self, line: str) -> str:
        code, out, err = self.run(line)
        assert code == 0, err
        return out

    def lock(self, *repos: str) -> None:
        text = "".join(f'[[models]]\nrepo = "{repo}"\n' for repo in repos)
        (self.root / "modelcache.toml").write_text(text)
        self.must("lock")

    def forget(self) -> None:
        """Lose what earlier runs noted: the state, and with it the tier."""
        shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "contexts")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": NAME})
        hub.add_repo("org/other", {"main": OTHER})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = Place(tmp_path, hub, capsys)
        found.app.mkdir()
        (found.app / "Dockerfile").write_text("FROM scratch\nCOPY modelcache/ /\nCOPY app.py run /\n")
        (found.app / "app.py").write_text("print()\n")
        (found.app / "run").write_text("#!/bin/sh\n")
        (found.app / "run").chmod(0o755)
        found.lock("org/name", "org/other")
        yield found


def files(folder: Path) -> dict[str, bytes]:
    """Path to content of every file below *folder*."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def wanted(*repos: str) -> dict[str, bytes]:
    contents = {"org/name": NAME, "org/other": OTHER}
    return {f"{MODELS}/{repo}/{path}": data for repo in repos for path, data in contents[repo].items()}


def ours(app: Path) -> dict[str, bytes]:
    return {path: data for path, data in files(app).items() if path.startswith("modelcache/")}


# --- the folder


def test_the_models_of_the_lock_lie_where_copy_takes_them_from(place: Place) -> None:
    out = place.must("docker context app")
    assert out == f"{place.app}/modelcache\n"
    assert ours(place.app) == wanted("org/name", "org/other")


def test_all_of_it_is_as_an_image_layer_needs_it(place: Place) -> None:
    place.must("docker context app")
    for path in [place.app / "modelcache", *(place.app / "modelcache").rglob("*")]:
        seen = path.stat()
        executable = path.is_dir()
        assert (seen.st_mtime_ns, stat.S_IMODE(seen.st_mode)) == (0, 0o755 if executable else 0o644), path


def test_the_first_time_the_bytes_are_downloaded_and_then_they_are_links(place: Place) -> None:
    first = json.loads(place.must("docker context app --json"))["snapshots"]
    shutil.rmtree(place.app / "modelcache")
    place.must("docker context app")
    for path in (place.app / MODELS).rglob("*.*"):
        if path.is_file():
            assert path.stat().st_nlink > 1, path
    shutil.rmtree(place.app / "modelcache")
    again = json.loads(place.must("docker context app --json"))["snapshots"]
    sizes = [sum(map(len, NAME.values())), sum(map(len, OTHER.values()))]
    assert [each["size"] for each in first] == sizes
    assert [each["bytes_linked"] for each in again] == sizes
    assert [each["bytes_downloaded"] + each["bytes_copied"] for each in again] == [0, 0]


def test_it_says_which_way_the_bytes_came_and_what_git_should_ignore(place: Place) -> None:
    (place.root / ".git").mkdir()
    _, _, err = place.run("docker context app")
    assert "modelcache/: " in err
    assert " linked, " in err
    assert "add modelcache/ to .gitignore" in err
    (place.root / ".gitignore").write_text("/build\nmodelcache/\n")
    assert ".gitignore" not in place.run("docker context app")[2]


def test_a_second_run_changes_nothing(place: Place) -> None:
    place.must("docker context app")
    before = {path: _written(path) for path in place.app.rglob("*")}
    place.must("docker context app")
    assert {path: _written(path) for path in place.app.rglob("*")} == before


def _written(path: Path) -> tuple[int, ...]:
    """All that a program which writes could have changed."""
    found = path.stat()
    return (
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_mtime_ns,
    )


def test_models_that_are_not_wanted_any_more_are_removed_with_their_folders(place: Place) -> None:
    place.must("docker context app")
    place.lock("org/other")
    report = json.loads(place.must("docker context app --json"))
    assert ours(place.app) == wanted("org/other")
    assert not (place.app / MODELS / "org" / "name").exists()
    assert sorted(report["removed"]) == sorted(f"models/org/name/{path}" for path in NAME)
    assert (place.app / MODELS / "org").stat().st_mtime_ns == 0


def test_a_file_of_somebody_else_is_an_error_and_nothing_is_removed(place: Place) -> None:
    place.must("docker context app")
    mine = place.app / "modelcache" / "notes.txt"
    mine.write_text("mine")
    place.lock("org/other")
    code, _, err = place.run("docker context app")
    assert code == 2
    assert f"{mine} would go into the image" in err
    assert ours(place.app) == {**wanted("org/name", "org/other"), "modelcache/notes.txt": b"mine"}


def test_a_file_of_an_old_model_that_somebody_changed_is_kept(place: Place) -> None:
    place.must("docker context app")
    changed = place.app / MODELS / "org/other/config.json"
    changed.unlink()
    changed.write_bytes(b"mine")
    place.lock("org/name")
    code, _, err = place.run("docker context app")
    assert code == 2
    assert str(changed) in err
    assert changed.read_bytes() == b"mine"


def test_without_a_note_nothing_is_removed_but_what_is_wanted_is_taken_as_it_is(place: Place) -> None:
    place.must("docker context app")
    place.forget()
    place.must("docker context app")
    place.forget()
    place.lock("org/other")
    assert place.run("docker context app")[0] == 2
    assert ours(place.app) == wanted("org/name", "org/other")


def test_a_broken_note_is_no_note(place: Place) -> None:
    place.must("docker context app")
    (note,) = (Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "contexts").iterdir()
    for text in ("{", "[]", '{"files": 1}', "\x00"):
        note.write_text(text)
        place.must("docker context app")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_the_place_of_our_folder_is_an_error(place: Place, kind: str) -> None:
    taken = place.app / "modelcache"
    if kind == "file":
        taken.write_text("mine")
    else:
        (place.root / "elsewhere").mkdir()
        taken.symlink_to(place.root / "elsewhere")
    code, _, err = place.run("docker context app")
    assert code == 2
    assert f"{taken} is a {kind}" in err
    assert list(place.root.glob("elsewhere/*")) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [("*\n!app.py", ".dockerignore:1: *"), ("**/*.safetensors", ".dockerignore:1: **/*.safetensors")],
)
def test_a_dockerignore_that_leaves_models_out_is_an_error_before_anything_is_restored(
    place: Place, text: str, line: str
) -> None:
    (place.app / ".dockerignore").write_text(text)
    code, _, err = place.run("docker context app")
    assert code == 2
    assert line in err
    assert "!modelcache/" in err
    assert not (place.app / "modelcache").exists()
    (place.app / ".dockerignore").write_text(f"{text}\n!modelcache/\n")
    place.must("docker context app")


def test_the_dockerignore_of_the_dockerfile_counts(place: Place) -> None:
    (place.app / "gpu.Dockerfile").write_text("FROM scratch\n")
    (place.app / "gpu.Dockerfile.dockerignore").write_text("modelcache")
    place.must("docker context app")
    code, _, err = place.run("docker context app --file app/gpu.Dockerfile")
    assert code == 2
    assert "gpu.Dockerfile.dockerignore:1: modelcache" in err


def test_one_model_that_is_named_has_a_folder_of_its_own_too(place: Place) -> None:
    place.must("docker context app org/other@main")
    assert ours(place.app) == wanted("org/other")


def test_another_folder_of_the_image_and_another_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    place.must("docker context app --to /opt/weights")
    root = place.app / "modelcache"
    assert set(files(root)) == {path.replace(MODELS, "opt/weights") for path in wanted("org/name", "org/other")}
    assert {path.stat().st_mtime for path in [root, *root.rglob("*")]} == {1700000000}


def test_a_hub_cache_is_found_by_name_and_old_revisions_leave_it(place: Place) -> None:
    place.must("docker context app --layout hub")
    cache = place.app / MODELS / "models--org--other"
    old = (cache / "refs/main").read_text()
    assert (cache / "snapshots" / old / "config.json").read_bytes() == b"{}"
    place.hub.add_repo("org/other", {"main": {"config.json": b"[]"}})
    place.must("lock --upgrade")
    place.must("docker context app --layout hub")
    new = (cache / "refs/main").read_text()
    assert new != old
    assert [path.name for path in (cache / "snapshots").iterdir()] == [new]
    assert len(list((cache / "blobs").iterdir())) == 1


# --- the stream


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return {each.name: each for each in archive}


def contents(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        opened = {each.name: archive.extractfile(each) for each in archive if each.isreg()}
        return {name: file.read() for name, file in opened.items() if file}


def streamed(place: Place, options: str = "app") -> bytes:
    place.must(f"docker context --tar context.tar {options}")
    return (place.root / "context.tar").read_bytes()


def test_the_stream_has_the_context_and_the_models_and_ends_with_the_dockerfile(place: Place) -> None:
    data = streamed(place)
    own = {path: data for path, data in files(place.app).items() if path != "Dockerfile"}
    assert contents(data) == {**wanted("org/name", "org/other"), **own, "Dockerfile": files(place.app)["Dockerfile"]}
    assert list(members(data))[-1] == "Dockerfile"
    assert not (place.app / "modelcache").exists()


def test_the_first_header_is_one_by_which_docker_knows_an_archive(place: Place) -> None:
    (place.app / ("é" * 100)).write_text("first by name, and with a pax header")
    with tarfile.open(fileobj=io.BytesIO(streamed(place)[:512] + bytes(1024))) as archive:
        assert archive.getnames() == ["modelcache"]


def test_equal_contexts_give_equal_bytes_whenever_they_were_written(place: Place) -> None:
    before = streamed(place)
    for path in place.app.rglob("*"):
        os.utime(path, (1, 1))
    place.must("docker context app")  # the models on the disk are not taken from there
    assert streamed(place) == before
    assert {each.mtime for each in members(before).values()} == {0}
    assert {(each.uid, each.gid, each.uname, each.gname) for each in members(before).values()} == {(0, 0, "", "")}


def test_links_modes_empty_folders_and_long_names_are_kept(place: Place) -> None:
    (place.app / "empty").mkdir(mode=0o700)
    (place.app / "link").symlink_to("../outside")
    (place.app / "far").symlink_to("é" * 60)
    (place.app / "secret").write_text("x")
    (place.app / "secret").chmod(0o640)
    long = "/".join(["d" * 100] * 3) + "/" + "é" * 100
    (place.app / long).parent.mkdir(parents=True)
    (place.app / long).write_text("long")
    found = members(streamed(place))
    assert (found["empty"].isdir(), found["empty"].mode) == (True, 0o700)
    assert (found["link"].issym(), found["link"].linkname) == (True, "../outside")
    assert found["far"].linkname == "é" * 60
    assert (found["secret"].mode, found["run"].mode) == (0o640, 0o755)
    assert long in found


def test_gnu_tar_reads_the_same(place: Place) -> None:
    (place.app / "far").symlink_to("é" * 60)
    data = streamed(place)
    out = place.root / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", place.root / "context.tar", "-C", out], check=True)
    assert files(out) == contents(data)
    assert str((out / "far").readlink()) == "é" * 60


def test_what_dockerignore_leaves_out_is_not_streamed_and_neither_is_it_itself(place: Place) -> None:
    (place.app / ".dockerignore").write_text("*\n!app.py\n!modelcache/\n")
    names = set(contents(streamed(place)))
    assert {name for name in names if not name.startswith("modelcache/")} == {"app.py", "Dockerfile"}


def test_a_socket_is_left_out_and_a_pipe_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.app)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        monkeypatch.chdir(place.root)
        assert "s" not in members(streamed(place))
    os.mkfifo(place.app / "pipe")
    code, _, err = place.run("docker context --tar context.tar app")
    assert code == 2
    assert "pipe is no file, folder or link" in err


def test_a_name_that_is_not_utf_8_is_an_error_that_names_the_way_out(place: Place) -> None:
    Path(os.fsdecode(os.fsencode(place.app) + b"/caf\xe9")).write_text("x")
    code, _, err = place.run("docker context --tar context.tar app")
    assert code == 2
    assert "is not UTF-8" in err
    (place.app / ".dockerignore").write_text("caf?")
    streamed(place)


def test_the_stream_of_a_hub_cache_is_what_the_folder_would_be(place: Place) -> None:
    data = streamed(place, "app --layout hub")
    place.must("docker context app --layout hub")
    out = place.root / "out"
    out.mkdir()
    subprocess.run(["tar", "xf", place.root / "context.tar", "-C", out], check=True)
    differ: list[str | Path] = ["diff", "-r", "--no-dereference", out / "modelcache", place.app / "modelcache"]
    assert subprocess.run(differ, capture_output=True, check=False).stdout == b""
    assert {each.mtime for each in members(data).values()} == {0}


def test_without_a_dockerfile_the_generator_is_named(place: Place) -> None:
    (place.app / "Dockerfile").unlink()
    code, _, err = place.run("docker context --tar context.tar app")
    assert code == 2
    assert "ci-modelcache dockerfile --style copy" in err
    assert not (place.root / "context.tar").exists()


def test_a_dockerfile_elsewhere_is_an_error(place: Place) -> None:
    (place.root / "Dockerfile").write_text("FROM scratch\n")
    code, _, err = place.run("docker context --tar context.tar app -f Dockerfile")
    assert code == 2
    assert "is not in" in err
    assert place.run("docker context --tar context.tar app -f app/../app/Dockerfile")[0] == 0


def test_what_the_store_lacks_is_fetched_into_it_first(place: Place) -> None:
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "store")
    report = json.loads(place.must("docker context --tar context.tar app --json"))
    assert [each["ref"] for each in report["fetched"]] == ["org/name@main", "org/other@main"]
    place.hub.forget()
    report = json.loads(place.must("docker context --tar context.tar app --json"))
    assert (report["fetched"], place.hub.requests()) == ([], [])
    assert report["sha256"] == hashlib.sha256((place.root / "context.tar").read_bytes()).hexdigest()
    assert (report["files"], report["context_files"]) == (len(NAME) + len(OTHER), 3)


def test_what_may_not_be_fetched_is_a_miss(place: Place) -> None:
    shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "store")
    Path(os.environ["XDG_CACHE_HOME"], "ci-modelcache", "store").mkdir()
    code, _, err = place.run("docker context --tar context.tar app --mode read")
    assert code == 10
    assert "ci-modelcache fetch org/name@main" in err
    assert place.run("docker context --tar context.tar app --offline")[0] == 10
    assert not (place.root / "context.tar").exists()


def test_the_tier_is_enough_for_a_stream(place: Place) -> None:
    """Of what an earlier context left there, no blob is read from the store."""
    before = streamed(place)
    place.must("docker context app")
    store = Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "store"
    shutil.rmtree(store / "blobs")
    assert streamed(place, "app --mode read") == before


def test_a_wrong_blob_of_the_tier_is_passed_over(place: Place) -> None:
    before = streamed(place)
    place.must("docker context app")
    for path in (place.app / MODELS).rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"\0" * path.stat().st_size)  # edited in place, and the tier has the same file
    assert streamed(place) == before


def test_wrong_bytes_are_given_to_nobody(place: Place) -> None:
    store = Path(os.environ["XDG_CACHE_HOME"]) / "ci-modelcache" / "store"
    for path in store.glob("blobs/sha256/*/*/*"):
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)
    code, _, _ = place.run("docker context --tar context.tar app --mode read")
    assert code == 13
    assert not (place.root / "context.tar").exists()


def test_a_file_that_changes_while_it_is_read_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from ci_modelcache.docker import streamed as module  # noqa: PLC0415  # to change the file after it was looked at

    real = module._part

    def shorter(path: Path, *given: Any, **named: Any) -> Any:
        found = list(real(path, *given, **named))
        if path.name == "app.py":
            path.write_text("")
        return found

    monkeypatch.setattr(module, "_part", shorter)
    code, _, err = place.run("docker context --tar context.tar app")
    assert code == 1
    assert "was changed while it was read" in err


def test_a_stream_that_was_cut_off_has_no_dockerfile(place: Place) -> None:
    data = streamed(place)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive.getmembers()[1:]:
            assert b"FROM scratch" not in data[: member.offset]


def test_memory_does_not_grow_with_the_context(place: Place) -> None:
    """A file of a gigabyte, which is a hole."""
    with (place.app / "large").open("wb") as file:
        file.truncate(1 << 30)
    code = (
        "import sys; from ci_modelcache.cli.main import main; "
        "code = main(['docker', 'context', '--tar', '-', 'app']); "
        "print(open('/proc/self/status').read(), file=sys.stderr); sys.exit(code)"
    )
    with Path(os.devnull).open("wb") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak) < 256 * 1024


def test_stdout_has_the_archive_alone(place: Place) -> None:
    before = streamed(place)
    done = subprocess.run(
        [sys.executable, "-m", "ci_modelcache", "docker", "context", "--tar", "-", "app"],
        capture_output=True,
        check=False,
    )
    assert done.stdout == before
    assert place.run("docker context --tar - app --json")[0] == 2


# --- with an engine


def build(engine: Engine, context: Path | None, **given: Any) -> Layer:
    """The only layer of what is built of *context*, without any cache."""
    image = engine.image("context")
    done = engine.build(context, "--no-cache", tag=image, **given)
    assert done.code == 0, done
    (layer,) = engine.layers(image)
    return layer


@pytest.mark.timeout(900)
def test_docker_builds_the_same_layer_from_the_same_stream_and_it_is_the_model(engine: Engine, place: Place) -> None:
    (place.app / "Dockerfile").write_text("FROM scratch\nCOPY modelcache/ /\n")
    data = streamed(place)
    first, second = (build(engine, None, stdin=data) for _ in range(2))
    assert first.diff_id == second.diff_id
    assert {(each.uid, each.gid, each.mtime) for each in first.members.values()} == {(0, 0, 0)}
    assert first.files == {
        path.removeprefix("modelcache/"): hashlib.sha256(data).hexdigest()
        for path, data in wanted("org/name", "org/other").items()
    }


@pytest.mark.timeout(900)
def test_docker_builds_the_same_files_from_the_folder(engine: Engine, place: Place) -> None:
    """BuildKit of 2020 gives the folders of a context the time at which it received them; everything else is equal."""
    (place.app / "Dockerfile").write_text("FROM scratch\nCOPY modelcache/ /\n")
    from_stream = build(engine, None, stdin=streamed(place))
    place.must("docker context app")
    from_folder = build(engine, place.app)

    def timeless(layer: Layer) -> dict[str, Member]:
        return {path: evolve(each, mtime=0) if each.kind == "folder" else each for path, each in layer.members.items()}

    assert timeless(from_folder) == timeless(from_stream)


@pytest.mark.timeout(900)
def test_docker_builds_nothing_from_a_stream_that_was_cut_off(engine: Engine, place: Place) -> None:
    data = streamed(place)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        last = archive.getmember("Dockerfile").offset
    assert engine.build(None, stdin=data).code == 0
    assert engine.build(None, stdin=data[:last]).code != 0
