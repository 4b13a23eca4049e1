"""Exports that are killed go on where they were, to a file, to parts, packed, and to a bucket; and none takes much memory."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.docker.tree import Part
from ci_modelcache.errors import DeadlineExceeded, DigestMismatch, ObjectNotFound
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.model.tar import Member
from ci_modelcache.stores.s3_outlet import PART
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.kept_file import KeptFile
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.archive import Archive
from ci_modelcache.verbs.export import Exported, export, held
from ci_modelcache.verbs.step import Step
from tests.parts.cached import cache_in, publish
from tests.parts.documents import ROOT
from tests.parts.faults import relaying
from tests.parts.servers import ADMIN, BUCKET, REGION
from tests.parts.snapshots import manifest_of
from tests.parts.stores import MemoryStore
from tests.parts.verbs import REPO, spoil, write_files
from tests.test_export_cli import Shell
from tests.test_outlets import joined, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.transfer.outlet import Keeping, Outlet, Take
    from tests.parts.faults import Relay
    from tests.parts.servers import S3Server
    from tests.parts.stores import Recording
    from tests.parts.verbs import Bench

PATIENCE = 100
"""Seconds after which a test says that something hangs."""
FILES = {f"{number:02}.bin": random.Random(number).randbytes(1_000_000) for number in range(12)}
SIZE = sum(map(len, FILES.values()))
REF = "org/slow@v1"
WAYS: dict[str, tuple[tuple[str, ...], str, Callable[[Path], bytes]]] = {
    "file": ((), "x.tar", lambda path: path.read_bytes()),
    "parts": (("--split", "3MB"), "x.tar", joined),
    "zstd": (("--zstd",), "x.tar.zst", lambda path: unpacked(path.read_bytes())),
    "zstd in parts": (("--zstd", "--split", "3MB"), "x.tar.zst", lambda path: unpacked(joined(path))),
}


@pytest.fixture
def relay(seaweedfs_server: S3Server) -> Iterator[Relay]:
    with relaying(seaweedfs_server.port) as wire:
        yield wire


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """A shell with a store of its own in a folder, in which nothing is."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "LC_ALL": "C.utf8",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": ADMIN[0],
        "AWS_SECRET_ACCESS_KEY": ADMIN[1],
    }
    (tmp_path / "here").mkdir()
    return Shell(environ, tmp_path / "here")


@pytest.fixture
def slow(alone: Shell, relay: Relay, request: pytest.FixtureRequest) -> Shell:
    """A shell whose store is elsewhere and holds `REF`, at 6 MB/s."""
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")
    remote = alone.with_(CI_MODELCACHE_STORE=f"s3://{BUCKET}/{prefix}", AWS_ENDPOINT_URL=relay.endpoint)
    folder = write_files(alone.cwd / "files", FILES)
    remote.done("save", folder, REF)
    shutil.rmtree(folder)
    return remote.with_(CI_MODELCACHE_LIMIT_RATE="6MB")


def written(folder: Path) -> int:
    """Bytes of what is half done."""
    return sum(path.stat().st_size for path in folder.glob("*.partial*"))


def until(reached: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait; the process must not end meanwhile."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, "it was faster than the rate allows"
        assert time.monotonic() < end
        time.sleep(0.01)


def end_at(shell: Shell, argv: tuple[str, ...], reached: Callable[[], bool], how: signal.Signals) -> int:
    """The exit code of an export that was ended when that was *reached*."""
    with shell.start("export", REF, *argv, stderr=subprocess.DEVNULL) as process:
        until(reached, process)
        process.send_signal(how)
        return process.wait(PATIENCE)


def reads(relay: Relay) -> int:
    """Blobs that were read since this was asked last."""
    count = relay.count("GET", "blobs/sha256")
    relay.seen.clear()
    return count


@pytest.mark.parametrize(("flags", "name", "back"), WAYS.values(), ids=WAYS)
def test_killed_at_60_percent_it_goes_on_there_and_reads_only_what_is_missing(
    flags: tuple[str, ...], name: str, back: Callable[[Path], bytes], slow: Shell, relay: Relay
) -> None:
    argv = (*flags, "-o", name)
    code = end_at(slow, argv, lambda: written(slow.cwd) >= 0.6 * SIZE, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert all("partial" in path.name for path in slow.cwd.iterdir())
    reads(relay)
    report = slow.with_(CI_MODELCACHE_LIMIT_RATE="").report("export", REF, *argv)
    assert 1 <= reads(relay) <= 0.4 * len(FILES) + 1
    content = back(slow.cwd / name)
    assert hashlib.sha256(content).hexdigest() == report["sha256"]
    assert not [path for path in slow.cwd.iterdir() if "partial" in path.name]
    at_once = slow.with_(CI_MODELCACHE_LIMIT_RATE="").done("export", REF, "-o", "-")
    assert content == at_once


def test_killed_again_and_again_it_comes_to_its_end(slow: Shell) -> None:
    for percent in (20, 50, 80):
        end_at(slow, ("-o", "x.tar"), lambda least=percent: written(slow.cwd) >= least / 100 * SIZE, signal.SIGKILL)  # type: ignore[misc]  # mypy knows no type of a lambda's default
    report = slow.report("export", REF, "-o", "x.tar")
    assert hashlib.sha256((slow.cwd / "x.tar").read_bytes()).hexdigest() == report["sha256"]


def test_what_was_kept_and_altered_is_found_out(slow: Shell, relay: Relay) -> None:
    end_at(slow, ("-o", "x.tar"), lambda: written(slow.cwd) >= 0.6 * SIZE, signal.SIGKILL)
    spoil(slow.cwd / "x.tar.partial", at=int(0.3 * SIZE))
    reads(relay)
    report = slow.with_(CI_MODELCACHE_LIMIT_RATE="").report("export", REF, "-o", "x.tar")
    assert 0.5 * len(FILES) <= reads(relay) < len(FILES)
    assert hashlib.sha256((slow.cwd / "x.tar").read_bytes()).hexdigest() == report["sha256"]


def test_a_cancelled_job_and_a_deadline_keep_what_they_have(slow: Shell) -> None:
    assert end_at(slow, ("-o", "x.tar"), lambda: written(slow.cwd) >= 0.2 * SIZE, signal.SIGTERM) == 130
    before = written(slow.cwd)
    assert before >= 0.2 * SIZE
    # Until it is here whatever machine this is has had time to begin.
    code, _, err = slow.with_(CI_MODELCACHE_LIMIT_RATE="100kB").run("export", REF, "-o", "x.tar", "--deadline", "8s")
    assert code == 15
    assert "kept" in err
    assert written(slow.cwd) > before - 1_100_000, "all but the file that was not whole"
    report = slow.with_(CI_MODELCACHE_LIMIT_RATE="").report("export", REF, "-o", "x.tar")
    assert hashlib.sha256((slow.cwd / "x.tar").read_bytes()).hexdigest() == report["sha256"]


def test_another_model_at_the_same_place_is_no_mixture(slow: Shell) -> None:
    end_at(slow, ("-o", "x.tar"), lambda: written(slow.cwd) >= 0.6 * SIZE, signal.SIGKILL)
    quick = slow.with_(CI_MODELCACHE_LIMIT_RATE="")
    folder = write_files(slow.cwd / "files", {**FILES, "05.bin": b"other"})
    quick.done("save", folder, "org/slow@v2")
    shutil.rmtree(folder)
    quick.done("export", "org/slow@v2", "-o", "x.tar")
    assert (slow.cwd / "x.tar").read_bytes() == quick.done("export", "org/slow@v2", "-o", "-")


# --- what is proven of what is left


LARGE = random.Random(7).randbytes(3 * LEAF_SIZE + 1000)


@pytest.fixture
def large(bench: Bench) -> Bench:
    """A store with a file of four stretches and a small one, seen as one elsewhere."""
    bench.hub.add_repo(REPO, {"main": {"large.bin": LARGE, "config.json": b"{}"}})
    bench.fetch()
    return bench


def exported(bench: Bench, outlet: Outlet, *, step: Step | None = None) -> str:
    """The sha256 of an archive of all that is in the store."""
    cache = bench.cache()
    models = [held(ModelRef.parse(REPO), Selection(), cache=cache, host=bench.offline)]
    return export(models, outlet, cache=cache, step=step or bench.step()).sha256


def whole(bench: Bench) -> bytes:
    """The archive."""
    path = bench.folder / "whole.tar"
    exported(bench, KeptFile(path))
    return path.read_bytes()


def stretches(seen: Recording) -> int:
    """How often blobs were read."""
    return len(seen.keys("read", "blobs/"))


def test_of_a_large_file_only_stretches_that_are_not_whole_are_read(large: Bench) -> None:
    right = whole(large)
    start = right.index(LARGE[:100])
    path = large.folder / "x.tar"
    for kept, expected in ((start + 2 * LEAF_SIZE, 2), (start + 2 * LEAF_SIZE - 1, 3), (len(right) - 1, 0), (start, 4)):
        path.with_name("x.tar.partial").write_bytes(right[:kept])
        seen = large.remotely()
        exported(large, KeptFile(path))
        large.ledger.check()
        assert path.read_bytes() == right
        small = right.index(b"{}" + bytes(510)) > kept
        assert stretches(seen) - small == expected


def test_one_bit_in_any_kind_of_bytes_is_seen(large: Bench) -> None:
    """In a header, a document, a blob, the padding after it, the trailer."""
    right = whole(large)
    start = right.index(LARGE[:100])
    path = large.folder / "x.tar"
    for at in (0, 700, start - 512, start, start + LEAF_SIZE + 5, start + len(LARGE) + 3, len(right) - 1):
        path.with_name("x.tar.partial").write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        exported(large, KeptFile(path))
        assert path.read_bytes() == right


def test_more_than_the_archive_is_cut_off(large: Bench) -> None:
    right = whole(large)
    path = large.folder / "x.tar"
    path.with_name("x.tar.partial").write_bytes(right + b"more")
    seen = large.remotely()
    exported(large, KeptFile(path))
    assert (path.read_bytes() == right, stretches(seen)) == (True, 0)


def test_leaves_that_are_right_do_not_excuse_a_digest_that_is_wrong_in_what_was_kept(tmp_path: Path) -> None:
    """The manifest lies about the file: neither what is read nor what is kept may pass."""
    true = manifest_of({"large.bin": LARGE}, executable=())
    store = MemoryStore()
    publish(cache_in(store), true, {"large.bin": LARGE})
    lie = evolve(true.files[0], sha256=Digest.of(b"something else"))
    store.objects[keys.blob(lie.sha256)] = LARGE
    model = Exported(ModelRef(true.repo, true.commit), evolve(true, files=(lie,)))
    broken = Breaking(KeptFile(tmp_path / "x.tar"))
    with pytest.raises(KeyboardInterrupt):
        export([model], broken, cache=cache_in(store), step=Step(tmp_path / "state"))
    assert (tmp_path / "x.tar.partial").stat().st_size > len(LARGE)
    with pytest.raises(DigestMismatch):
        export([model], KeptFile(tmp_path / "x.tar"), cache=cache_in(store), step=Step(tmp_path / "state"))
    assert not list(tmp_path.glob("x.tar*"))


class Breaking:
    """An outlet that is interrupted with the last byte of `LARGE`."""

    name = "-"

    def __init__(self, outlet: Keeping) -> None:
        self._outlet = outlet

    @contextmanager
    def open(self, size: int) -> Iterator[Take]:
        with self._outlet.open(size) as take:
            last = LARGE[-1000:]

            def check(data: bytes) -> None:
                take(data)
                if data.endswith(last):
                    raise KeyboardInterrupt

            yield check


def test_a_blob_that_the_store_has_lost_since_is_a_miss_although_it_is_kept(large: Bench) -> None:
    """An export says that the store has it all."""
    right = whole(large)
    path = large.folder / "x.tar"
    path.with_name("x.tar.partial").write_bytes(right)
    large.blob(LARGE).unlink()
    with pytest.raises(ObjectNotFound):
        exported(large, KeptFile(path))


def test_looking_at_what_is_kept_ends_at_the_deadline(large: Bench) -> None:
    right = whole(large)
    path = large.folder / "x.tar"
    path.with_name("x.tar.partial").write_bytes(right)
    ends = iter([0.0] * 40)
    deadline = Deadline(10, clock=lambda: next(ends, 100.0))
    archive = Archive([], cache=large.cache(), step=large.step(retry=RetryPolicy(deadline=deadline)), doing="x")
    for _ in range(40):
        deadline.remaining()
    with pytest.raises(DeadlineExceeded):
        archive.write(KeptFile(path))


def test_files_of_this_machine_are_written_anew_as_nothing_is_promised_about_them(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "a").write_bytes(b"content")
    parts = [Part(Member("a", 7), tmp_path / "a"), Part(Member("b", 3), b"abc")]
    archive = Archive(parts, cache=bench.cache(), step=bench.step(), doing="x")
    archive.write(KeptFile(tmp_path / "x.tar"))
    right = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar.partial").write_bytes(right.replace(b"content", b"CONTENT"))
    archive.write(KeptFile(tmp_path / "x.tar"))
    assert (tmp_path / "x.tar").read_bytes() == right


# --- to a bucket


class Bucket:
    """What is in the bucket beyond a relay, by a client that is not ours."""

    def __init__(self, relay: Relay, prefix: str) -> None:
        self.url = f"s3://{BUCKET}/{prefix}/x.tar?endpoint_url={relay.endpoint}"
        self._prefix = prefix
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=relay.endpoint,
            region_name=REGION,
            aws_access_key_id=ADMIN[0],
            aws_secret_access_key=ADMIN[1],
        )

    def arrived(self) -> int:
        """Parts of uploads that are not complete."""
        uploads = self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{self._prefix}/").get("Uploads", [])
        return sum(
            len(self._client.list_parts(Bucket=BUCKET, Key=each["Key"], UploadId=each["UploadId"]).get("Parts", []))
            for each in uploads
        )

    def objects(self) -> dict[str, bytes]:
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._prefix}/").get("Contents", [])
        keys = [each["Key"] for each in found]
        return {key.rpartition("/")[2]: self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.mark.parametrize("flags", [(), ("--split", "40MB")], ids=["one object", "parts"])
def test_an_upload_that_is_killed_at_60_percent_goes_on_there_and_sends_only_what_is_missing(
    flags: tuple[str, ...], alone: Shell, relay: Relay
) -> None:
    files = {f"{number}.bin": random.Random(number).randbytes(2 * PART) for number in range(5)}
    alone.done("save", write_files(alone.cwd.parent / "files", files), REF)
    bucket = Bucket(relay, f"killed-{len(flags)}")
    argv = (*flags, "-o", bucket.url)
    limited = alone.with_(CI_MODELCACHE_LIMIT_RATE="10MB")
    assert end_at(limited, argv, lambda: bucket.arrived() >= 6, signal.SIGKILL) == -signal.SIGKILL
    kept = bucket.arrived()
    assert bucket.objects() == {}
    relay.seen.clear()
    report = alone.report("export", REF, *argv)
    # 80 MiB and headers are 11; of parts of 40 MB each has 5, and the last one what is left.
    # Where the kill came late on a busy machine nothing may be missing but the end.
    assert min(1, 11 - kept) <= relay.count("PUT", "partNumber=") <= 11 - kept
    found = bucket.objects()
    content = b"".join(data for name, data in sorted(found.items()) if not name.endswith("sha256s"))
    assert hashlib.sha256(content).hexdigest() == report["sha256"]
    assert content == alone.done("export", REF, "-o", "-")
    assert bucket.arrived() == 0


def test_what_lies_in_the_store_itself_is_refused(alone: Shell, relay: Relay) -> None:
    own = alone.with_(CI_MODELCACHE_STORE=f"s3://{BUCKET}/store", AWS_ENDPOINT_URL=relay.endpoint)
    code, _, err = own.run("export", REF, "-o", f"s3://{BUCKET}/store/x.tar")
    assert (code, "lies in the store itself" in err) == (2, True)


def test_stdout_is_not_cut_into_parts(alone: Shell) -> None:
    code, _, err = alone.run("export", REF, "-o", "-", "--split", "1MB")
    assert (code, "--split" in err) == (2, True)


def test_what_is_packed_goes_through_a_pipe(alone: Shell) -> None:
    alone.done("save", write_files(alone.cwd.parent / "files", {"a.bin": b"a" * 3_000_000}), REF)
    packed = alone.done("export", REF, "-o", "-", "--zstd")
    assert len(packed) < 100_000
    assert unpacked(packed) == alone.done("export", REF, "-o", "-")


# --- memory


@pytest.mark.parametrize("flags", [("-o", "s3"), ("-o", "s3", "--zstd", "--split", "100MB"), ("-o", "x.tar")])
def test_memory_does_not_grow_with_the_file(flags: tuple[str, ...], alone: Shell, relay: Relay) -> None:
    """320 MiB of a file, and less than that of memory (DESIGN: 256 MiB)."""
    source = alone.cwd.parent / "large"
    source.mkdir()
    with (source / "large.bin").open("wb") as file:
        file.truncate(320 << 20)
    alone.done("save", source, REF)
    url = Bucket(relay, f"memory-{len(flags)}").url
    # Not getrusage: its peak counts that of the parent before exec.
    program = (
        "import sys; from pathlib import Path; from ci_modelcache.cli.main import main; code = main(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text(), file=sys.stderr); sys.exit(code)"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "export",
        REF,
        "--quiet",
        *(url if each == "s3" else each for each in flags),
    ]
    done = subprocess.run(command, env=alone.environ, cwd=alone.cwd, capture_output=True, text=True, check=True)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", done.stderr, re.MULTILINE)
    assert int(peak) < 256 << 10
