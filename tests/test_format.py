"""docs/format.md and the golden store: what was written once stays readable, by us and by hand, and the text says what the code does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from attrs import evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.access import touch
from ci_modelcache.cache.answers import keep_answer, known_answer
from ci_modelcache.cache.collection import store_time
from ci_modelcache.cache.condemning import announce_names, close, doom_names
from ci_modelcache.cache.leases import Lease
from ci_modelcache.cache.pins import pin, unpin
from ci_modelcache.cache.publication import published
from ci_modelcache.cache.records import (
    HUB,
    SAVED,
    AnswerRecord,
    ClosedRecord,
    CondemnedRecord,
    HeadRecord,
    IntentRecord,
    LeaseRecord,
    Marker,
    PinRecord,
    RefRecord,
    ScrubRecord,
)
from ci_modelcache.cache.trash import drop
from ci_modelcache.cache.ulid import new_ulid
from ci_modelcache.layouts.plain import PlainLayout
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.document import MAX_DOCUMENT, to_json
from ci_modelcache.model.lock import VERSION, Lock, LockedModel
from ci_modelcache.model.manifest import FileEntry, Manifest
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.keys import MAX_KEY, STAGING
from ci_modelcache.stores.probe import probe
from tests.parts import golden_store
from tests.parts.cached import NOW, cache_in, leaf_list, publish, repeating_random, require_restorable
from tests.parts.golden_store import ANSWER, FILES, GOLDEN_STORE, HOST, REPO, TAG
from tests.parts.snapshots import fill, manifest_of
from tests.parts.stores import MemoryStore, Recording, tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cache.modelcache import ModelCache

TEXT = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
MANIFEST = golden_store.manifest()
ULID = new_ulid(NOW, bytes(10))


def bash(script: str, *, cwd: Path, **variables: str) -> str:
    """What bash prints for *script*; that any command of it fails is an error."""
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snippet(begin: str) -> str:
    """The shell command of the text that begins so."""
    (found,) = re.findall(rf"`({re.escape(begin)}[^`]*)`", TEXT)
    return str(found)


# The golden store


def test_publishing_the_golden_snapshot_makes_the_golden_store_byte_for_byte(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", create=True)
    golden_store.fill(store)
    golden = {path.relative_to(GOLDEN_STORE).as_posix(): path.read_bytes() for path in _files(GOLDEN_STORE)}
    assert tree(store) == golden


def _files(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_this_version_reads_the_golden_store() -> None:
    cache = cache_in(DirectoryStore(GOLDEN_STORE, create=False))
    assert cache.marker() == Marker(
        id="3737dbdee0973be82471e59175228464",
        capabilities={"create_only": "atomic", "deletes": True},
        format=1,
        min_reader=1,
        features=(),
    )
    assert list(cache.snapshots()) == [MANIFEST.id]
    assert cache.heads_of(MANIFEST.id) == ("main", TAG)
    assert cache.head(HOST, ModelRef(REPO, "main")) == HeadRecord("main", MANIFEST.commit, int(NOW), HUB)
    assert cache.head(HOST, ModelRef(REPO, TAG)) == HeadRecord(TAG, MANIFEST.commit, int(NOW), SAVED)
    assert known_answer(cache, HOST, ModelRef(REPO, "main")) == ANSWER
    assert cache.ref(MANIFEST.id).provenance == {"source": "https://huggingface.co"}
    assert published(cache, MANIFEST.id) == MANIFEST
    assert MANIFEST.digest.hex == "5d4ed83b9a3bd507fcad2ef535f9593d8a7fc78869b2deb88fa776c425bf890b"
    require_restorable(cache, MANIFEST)


def test_the_golden_store_is_a_store_of_the_format_that_the_text_describes() -> None:
    patterns = documented_keys()
    for path in _files(GOLDEN_STORE):
        key = path.relative_to(GOLDEN_STORE).as_posix()
        assert [name for name, pattern in patterns.items() if pattern.fullmatch(key)], key


# By hand


def recover(store: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script of the text in the new *folder*; its aws command alone is replaced, by a copy from *store*."""
    (script,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    script = script.replace("/ORG/NAME", "/tiny/golden_5Fmodel")
    assert "ORG" not in script
    aws = """
aws() {
  [ "$1 $2" = "s3 cp" ] && [ $# = 4 ] || return 9
  local file="$STORED/${3#s3://BUCKET/PREFIX/}"
  if [ "$4" = - ]; then cat "$file"; else cp "$file" "$4"; fi
}
"""
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "STORED": str(store)}
    # As it is pasted: nothing stops at the first failure.
    command = ["bash", "-c", aws + script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_model_is_recovered_by_the_script_of_the_text(tmp_path: Path) -> None:
    done = recover(GOLDEN_STORE, tmp_path / "recovered")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *(f"{name}: OK" for name in ("manifest.json", *FILES)),
        f"all {len(FILES)} files recovered",
    ]
    assert done.returncode == 0
    (tmp_path / "recovered" / "manifest.json").unlink()
    found = {path.relative_to(tmp_path / "recovered").as_posix(): path for path in _files(tmp_path / "recovered")}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def test_the_script_of_the_text_says_which_file_was_altered_or_is_missing(tmp_path: Path) -> None:
    store = shutil.copytree(GOLDEN_STORE, tmp_path / "store")
    (store / keys.blob(MANIFEST.files[0].sha256)).write_bytes(b"altered")
    (store / keys.blob(MANIFEST.files[1].sha256)).unlink()
    done = recover(store, tmp_path / "recovered")
    names = [file.path for file in MANIFEST.files]
    said = ["manifest.json: OK", f"{names[0]}: FAILED", f"{names[1]}: FAILED open or read", f"{names[2]}: OK"]
    assert done.stdout.splitlines() == said
    assert done.stderr.splitlines()[-1] == "FAILED: 1 of 3 files recovered"
    assert done.returncode != 0


def test_the_script_of_the_text_fails_when_it_cannot_recover_a_path(tmp_path: Path) -> None:
    contents = {"config.json": b"{}", 'he said "hi".txt': b"hi", 'last"': b"quote"}
    manifest = evolve(manifest_of(contents), host=HOST, type=RepoType.MODEL, repo=REPO)
    store = DirectoryStore(tmp_path / "store", create=True)
    cache = cache_in(store)
    publish(cache, manifest, contents)
    cache.put_head(HOST, ModelRef(REPO, "main"), manifest.commit, HUB)
    done = recover(tmp_path / "store", tmp_path / "recovered")
    assert done.stdout.splitlines() == ["manifest.json: OK", "config.json: OK"]
    assert done.stderr == "FAILED: 1 of 3 files recovered\n"
    assert done.returncode != 0


def test_the_script_of_the_text_fails_when_there_is_no_manifest(tmp_path: Path) -> None:
    store = shutil.copytree(GOLDEN_STORE, tmp_path / "store")
    shutil.rmtree(store / "manifests")
    done = recover(store, tmp_path / "recovered")
    assert done.stderr.splitlines()[-1] == "FAILED: 0 of 0 files recovered"
    assert done.returncode != 0


def test_a_leaf_list_is_what_the_command_of_the_text_prints(tmp_path: Path) -> None:
    data = hashlib.shake_256(b"golden leaves").digest(40 << 20)
    contents = {"big.safetensors": data}
    manifest = manifest_of(contents)
    store = MemoryStore()
    publish(cache_in(store), manifest, contents)
    (tmp_path / "BLOB").write_bytes(data)
    command = snippet("split -b 16M")
    (key,) = [info.key for info in store.scan("leaves/")]
    assert store.objects[key] == leaf_list(data) == bash(command, cwd=tmp_path).encode()
    digest = "93efafb92177cc8eab3cfba133cecc12f6206cdbe8062553216684856d8a556d"
    assert (key, manifest.files[0].leaves) == (f"leaves/sha256/{digest[:2]}/{digest}", Digest(digest))
    assert LEAF_SIZE == 16 << 20


def test_the_set_digest_is_what_the_command_of_the_text_prints_in_a_restored_directory(tmp_path: Path) -> None:
    layout = PlainLayout(tmp_path / "model")
    fill(layout, MANIFEST, FILES)
    layout.publish(MANIFEST, ModelRef(REPO, "main"), full=True)
    assert bash(snippet("find . -type f"), cwd=tmp_path / "model") == f"{MANIFEST.set_digest}  -\n"


def test_the_selection_is_what_the_text_says(tmp_path: Path) -> None:
    selection = Selection(include=("onnx/", "*.json", "*.json"), exclude=("é*",))
    by_hand = """printf '%s' '{"exclude":["é*"],"include":["*.json","onnx/*"]}' | sha256sum | cut -c-16"""
    assert bash(by_hand, cwd=tmp_path).strip() == selection.id
    assert Selection().id == "all"


# Text and code


def documented_keys() -> dict[str, re.Pattern[str]]:
    """A pattern for each row of the table of keys."""
    table = TEXT.partition("| key | written | content |")[2].partition("\n\n")[0]
    parts = {
        "<64hex>": r"[0-9a-f]{64}",
        "<32hex>": r"[0-9a-f]{32}",
        "<type>": "(model|dataset|space)",
        "<commit>": "[0-9a-f]{40}",
        "<selection>": "(all|[0-9a-f]{16})",
        "<ulid>": "[0-9A-HJKMNP-TV-Z]{26}",
        "<n>": "[1-9][0-9]*",
        "<yyyy-mm-dd>": "[0-9]{4}-[0-9]{2}-[0-9]{2}",
        "...": "[a-z0-9/-]+",
        "/ab/": "/[0-9a-f]{2}/",
        "cd/": "[0-9a-f]{2}/",
    }
    patterns = {}
    for name in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE):
        pattern = re.escape(name)
        for written, meant in parts.items():
            pattern = pattern.replace(re.escape(written), meant)
        pattern = re.sub(r"<(host|org|name|revision|run)>", "[A-Za-z0-9._-]+", pattern)
        suffix = rf"(\.g{parts['<ulid>']})?" if name.endswith("<64hex>") else ""
        patterns[name] = re.compile(pattern + suffix)
    return patterns


def test_every_key_that_is_ever_written_is_in_the_table_and_each_row_of_it_is_written() -> None:
    big = {"big.bin": bytes(LEAF_SIZE + 1), "small.txt": b"small"}
    manifest = manifest_of(big)
    recording = Recording(MemoryStore())
    cache = cache_in(recording)
    cache.initialise(lambda store: {"create_only": probe(store, random=repeating_random()).create_only})
    publish(cache, manifest, big)
    publish(cache, evolve(manifest, repo="gpt2", selection="0" * 16), big)
    cache.put_head(HOST, ModelRef("tiny/model", "feature/x"), manifest.commit, HUB)
    keep_answer(cache, HOST, ModelRef("tiny/model", "feature/x"), ANSWER)
    Lease(cache, manifest.id).take()
    announce_names(cache, ULID, (info.key for info in recording.scan("") if "sha256" in info.key))
    publish(cache, manifest, big)
    _tend(cache, manifest)
    patterns = documented_keys()
    unused = set(patterns)
    for key in recording.keys("write"):
        rows = [name for name, pattern in patterns.items() if pattern.fullmatch(key)]
        assert len(rows) == 1, key
        unused -= set(rows)
    assert unused == set()
    assert len([key for key in recording.keys("write") if ".g" in key]) == 4


def _tend(cache: ModelCache, manifest: Manifest) -> None:
    """Write what those do who look after a store."""
    touch(cache, manifest.id)
    pin(cache, manifest.id, reason="")
    unpin(cache, manifest.id)
    drop(cache, manifest.id)
    cache.put_document(keys.SCRUBBED, to_json(ScrubRecord("0" * 64, 1)))
    store_time(cache)
    doom_names(cache, ULID, [])
    close(cache, ULID, deleted=[], spared=[])


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Marker", Marker),
        ("Ref", RefRecord),
        ("Head", HeadRecord),
        ("Answer", AnswerRecord),
        ("Lease", LeaseRecord),
        ("Intent", IntentRecord),
        ("Condemned list", CondemnedRecord),
        ("Closed list", ClosedRecord),
        ("Pin", PinRecord),
        ("Scrub", ScrubRecord),
    ],
)
def test_the_documents_of_the_text_have_the_fields_of_the_records_in_canonical_order(
    heading: str, kind: type[attrs.AttrsInstance]
) -> None:
    (example,) = re.findall(rf"^\*\*{heading}\*\* `(\{{.*?\}})`", TEXT, re.MULTILINE)
    names = re.findall(r'[{,]"(\w+)":', re.sub(r'("provenance":)\{[^}]*\}', r"\1{}", example))
    assert names == sorted(field.name for field in attrs.fields(kind))


def test_the_manifest_of_the_text_has_the_fields_of_the_code() -> None:
    (example,) = re.findall(r"```json\n(.*?)\n```", TEXT, re.DOTALL)
    assert re.findall(r'[{,]"(\w+)":', example) == sorted(field.name for field in attrs.fields(Manifest))
    table = TEXT.partition("each has")[2].partition("A manifest is")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {f.name for f in attrs.fields(FileEntry)}


def test_the_lock_of_the_text_has_the_fields_of_the_code() -> None:
    section = TEXT.partition("## Lock file")[2]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(field.name for field in attrs.fields(LockedModel))
    assert f"`version` is {VERSION};" in section
    assert {field.name for field in attrs.fields(Lock)} == {"models", "version"}


def test_documents_are_canonical() -> None:
    for path in [*GOLDEN_STORE.rglob("*.json"), *(GOLDEN_STORE / "manifests").rglob("*/*")]:
        if path.is_file():
            document = path.read_bytes()
            again = json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert document == again.encode(), path


def test_the_numbers_and_examples_of_the_text_are_those_of_the_code() -> None:
    assert f"at most {MAX_KEY} bytes" in TEXT
    assert f"at most {MAX_DOCUMENT >> 20} MiB" in TEXT
    assert "longer than 120 characters" in TEXT
    assert keys.encode("a" * 120) == "a" * 120
    assert keys.encode("a" * 121).startswith("_h")
    for example in re.findall(r"`([^`]+)` is `([^`]+_[^`]+)`", TEXT):
        assert keys.encode(example[0]) == example[1]
    assert len(re.findall(r"`([^`]+)` is `([^`]+_[^`]+)`", TEXT)) == 2
    assert f"`{STAGING}/`" in TEXT
    for kind in RepoType:
        assert f"`{kind}`" in TEXT
