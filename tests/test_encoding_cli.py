"""``--encoding`` on a real object store: saved packed and restored the same, with the requests that this takes; and real weights."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ci_modelcache.cache import keys
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.transfer import bytegroup
from ci_modelcache.transfer.bytegroup import FRAME
from tests.parts.command_line import calling
from tests.parts.minilm import embed
from tests.parts.servers import BUCKET, READER, REGION, login
from tests.parts.verbs import files_in, write_files
from tests.parts.weights import as_bfloat16, safetensors
from tests.parts.weights import model as tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store
    from tests.parts.command_line import Outcome
    from tests.parts.faults import Relay

    Run = Callable[[str], Outcome]

BIG = tensors("BF16", 5 * FRAME // 2)
FILES = {
    "model-00001-of-00002.safetensors": BIG,
    "model-00002-of-00002.safetensors": tensors("F32", FRAME),
    "half.safetensors": tensors("F16", FRAME),
    "eight.safetensors": tensors("F8_E4M3", FRAME),
    "tokenizer.json": b"{}" * 1000,
    "config.json": b"{}",
}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "trained", FILES)
    return calling(capsys)


@pytest.fixture
def bucket(relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of its own in the bucket, reached through the relay; the store of the settings."""
    login(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    url = f"s3://{BUCKET}/encoding-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    monkeypatch.setenv("CI_MODELCACHE_STORE", url)
    return url


def open_bucket(bucket: str, relay: Relay) -> Store:
    from ci_modelcache.stores.locations import open_store  # noqa: PLC0415  # as in a command
    from ci_modelcache.transfer.retry import RetryPolicy  # noqa: PLC0415  # as above

    return open_store(bucket, endpoint_url=relay.endpoint, region=REGION, retry=RetryPolicy())


def packed(data: bytes) -> str:
    return keys.packed(Digest.of(data), len(data))


def blobs(store: Store) -> dict[str, int]:
    return {info.key: info.size for info in store.scan(keys.BLOBS)}


def test_a_model_is_saved_packed_and_restored_the_same_and_others_stay_raw(
    run: Run, bucket: str, relay: Relay, tmp_path: Path
) -> None:
    saved = run("save trained me/mine@v1 --encoding bytegroup-zstd --json")
    assert saved.code == 0, saved
    stored = blobs(open_bucket(bucket, relay))
    weights = [data for path, data in FILES.items() if path.endswith(".safetensors")]
    assert {key for key in stored if ".bgz1-" in key} == {packed(data) for data in weights}
    assert stored[packed(BIG)] < 0.75 * len(BIG)
    restored = run("restore me/mine@v1 --to model --offline --json")
    assert restored.code == 0, restored
    assert files_in(tmp_path / "model") == FILES
    assert run("save model me/mine@v2 --json").json["bytes_uploaded"] == 0
    assert run("verify --all").code == 0


def test_a_packed_file_costs_three_more_requests_and_no_byte_twice(
    run: Run, bucket: str, relay: Relay, tmp_path: Path
) -> None:
    del bucket
    data = tensors("BF16", LEAF_SIZE + 3 * FRAME)
    shutil.rmtree(tmp_path / "trained")
    write_files(tmp_path / "trained", {"model.safetensors": data})
    assert run("save trained me/mine@v1 --encoding bytegroup-zstd").code == 0
    relay.seen.clear()
    assert run("restore me/mine@v1 --to model --offline").code == 0
    digest = Digest.of(data).hex
    asked = [(method, path) for method, path in relay.seen if digest in path]
    tried = [path for method, path in asked if method in {"GET", "HEAD"} and path.partition("?")[0].endswith(digest)]
    frames = [path for _, path in asked if f"{digest}.bgz1-{len(data)}" in path.partition("?")[0]]
    listed = [path for _, path in asked if path not in tried and path not in frames]
    # The raw name that is not there, the listing, the index, and one for each of the two stretches.
    assert len(listed) == 1
    assert len(tried) <= 2
    assert len(frames) <= 3
    assert files_in(tmp_path / "model") == {"model.safetensors": data}


def test_the_setting_is_read_from_modelcache_toml_by_every_command_that_stores(
    run: Run, bucket: str, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modelcache.toml").write_text('encoding = "bytegroup-zstd"\n')
    from ci_modelcache.demo.hub import LoopbackHub  # noqa: PLC0415  # only here

    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": {"model.safetensors": BIG}})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert run("restore org/name --to model").code == 0
        assert set(blobs(open_bucket(bucket, relay))) == {packed(BIG)}
        assert run("fetch org/name --encoding raw").code == 0
        assert set(blobs(open_bucket(bucket, relay))) == {packed(BIG)}
        assert run("fetch org/name --encoding raw --force-download").code == 0
        assert set(blobs(open_bucket(bucket, relay))) == {packed(BIG), keys.blob(Digest.of(BIG))}


def test_warm_packs_too(run: Run, bucket: str, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    from ci_modelcache.demo.hub import LoopbackHub  # noqa: PLC0415  # only here and above

    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": {"model.safetensors": BIG}})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert run("warm org/name --encoding bytegroup-zstd").code == 0
    assert set(blobs(open_bucket(bucket, relay))) == {packed(BIG)}


def test_an_unknown_encoding_is_refused(run: Run) -> None:
    done = run("save trained me/mine@v1 --encoding zip")
    assert done.code == 2
    assert "raw" in done.err
    assert "bytegroup-zstd" in done.err


def test_without_the_library_who_is_to_pack_is_told_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    done = run("save trained me/mine@v1 --encoding bytegroup-zstd --store store")
    assert done.code == 2
    assert "pip install 'ci-modelcache[encoding]'" in done.err
    assert not (tmp_path / "store").exists()


def test_without_the_library_a_restore_stores_raw_and_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ci_modelcache.demo.hub import LoopbackHub  # noqa: PLC0415  # as above

    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    monkeypatch.setenv("CI_MODELCACHE_ENCODING", "bytegroup-zstd")
    (tmp_path / "store").mkdir()
    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": FILES})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = run("restore org/name --to model --store store --mode read-write")
    assert done.code == 0
    assert "what is saved is stored raw" in done.err
    assert files_in(tmp_path / "model") == FILES
    assert not list((tmp_path / "store").rglob("*.bgz1-*"))


def test_without_the_library_a_packed_model_is_a_miss_that_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("save trained me/mine@v1 --encoding bytegroup-zstd --store store").code == 0
    monkeypatch.setattr(bytegroup, "_installed", lambda _: False)
    done = run("restore me/mine@v1 --to model --offline --store store")
    assert done.code == 10
    assert "pip install 'ci-modelcache[zstd]'" in done.err
    verified = run("verify --all --store store --json")
    assert verified.code == 2
    assert {problem["kind"] for problem in verified.json["problems"]} == {"unsupported"}
    assert not (tmp_path / "model" / "half.safetensors").exists()


def test_presign_says_that_it_needs_raw_copies(run: Run, bucket: str) -> None:
    del bucket
    assert run("save trained me/mine@v1 --encoding bytegroup-zstd").code == 0
    done = run("presign me/mine@v1 -o urls.json")
    assert done.code == 2
    assert "is encoded, and there is no raw copy" in done.err


def test_who_may_only_read_restores_a_packed_model(
    run: Run, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bucket
    assert run("save trained me/mine@v1 --encoding bytegroup-zstd").code == 0
    login(monkeypatch, READER)
    assert run("restore me/mine@v1 --to model --offline --mode read").code == 0
    assert files_in(tmp_path / "model") == FILES


def test_an_archive_of_a_packed_store_is_that_of_a_raw_one(run: Run, tmp_path: Path) -> None:
    assert run("save trained me/mine@v1 --store raw").code == 0
    assert run("save trained me/mine@v1 --store packed --encoding bytegroup-zstd").code == 0
    digests = [run(f"export me/mine@v1 -o {store}.tar --store {store}").out.split()[0] for store in ("raw", "packed")]
    assert digests[0] == digests[1]
    assert run("import packed.tar --store again").code == 0
    assert run("restore me/mine@v1 --to model --offline --store again").code == 0
    assert files_in(tmp_path / "model") == FILES


def test_replicate_carries_packed_copies(run: Run, bucket: str, relay: Relay) -> None:
    assert run("save trained me/mine@v1 --store here --encoding bytegroup-zstd").code == 0
    assert run(f"replicate here {bucket}").code == 0
    assert packed(BIG) in blobs(open_bucket(bucket, relay))
    assert run(f"verify --all --store {bucket}").code == 0


# --- real weights


@pytest.fixture(scope="module")
def half(model: Path) -> bytes:
    """The real weights, rounded to bfloat16."""
    found: dict[str, Any] = load_file(model / "model.safetensors")
    floats = {name: tensor for name, tensor in found.items() if tensor.dtype == np.float32 and "layer." in name}
    return safetensors({name: ("BF16", as_bfloat16(tensor.ravel()).tobytes()) for name, tensor in floats.items()})


def test_real_weights_shrink_as_they_are_known_to(run: Run, model: Path, half: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    shutil.copytree(model, folder)
    (folder / "half.safetensors").write_bytes(half)
    assert run("save real me/real@v1 --store store --encoding bytegroup-zstd").code == 0
    ratios = {}
    for name in ("model.safetensors", "half.safetensors"):
        data = (folder / name).read_bytes()
        ratios[name] = (tmp_path / "store" / packed(data)).stat().st_size / len(data)
    assert ratios["model.safetensors"] < 0.85
    assert ratios["half.safetensors"] < 0.70
    assert run("restore me/real@v1 --to model --offline --store store").code == 0
    assert files_in(tmp_path / "model") == files_in(folder)
    assert np.allclose(embed(tmp_path / "model", "the same"), embed(model, "the same"))
