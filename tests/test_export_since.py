"""What an export may leave out: by the names in an archive of any form, or by a lock, and nothing on the word of half an archive."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import FileNotFound, IntegrityError, ManifestInvalid
from ci_modelcache.model.digest import LEAF_SIZE, Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.transfer.frames import Compressed
from ci_modelcache.transfer.inlet import FileInlet, FilePipe
from ci_modelcache.transfer.kept_file import KeptFile
from ci_modelcache.transfer.parts import PartFiles
from ci_modelcache.verbs.export import FORMATS, Exported, ExportOptions, export
from ci_modelcache.verbs.since import held_by
from ci_modelcache.verbs.split import joined
from ci_modelcache.verbs.step import Step
from tests.parts.cached import cache_in, publish
from tests.parts.snapshots import CONTENTS, manifest_of
from tests.parts.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.transfer.inlet import Inlet
    from ci_modelcache.transfer.outlet import Outlet

LARGE = random.Random(5).randbytes(LEAF_SIZE + 10)
FILES = {**CONTENTS, "large.bin": LARGE}
MANIFEST = manifest_of(FILES)
KNOWN = frozenset(map(Digest.of, FILES.values()))
FORMS: dict[str, Callable[[Path], Outlet]] = {
    "whole": KeptFile,
    "compressed": lambda path: Compressed(KeptFile(path)),
    "in parts": lambda path: PartFiles(path, 3_000_000),
    "compressed, in parts": lambda path: Compressed(PartFiles(path, 3_000_000)),
}


def archived(outlet: Outlet, folder: Path, options: ExportOptions) -> None:
    store = MemoryStore()
    publish(cache_in(store), MANIFEST, FILES)
    model = Exported(ModelRef(MANIFEST.repo, MANIFEST.commit), MANIFEST)
    export([model], outlet, cache=cache_in(store), step=Step(folder / "state"), options=options)


def inlet(path: Path, folder: Path) -> Inlet:
    def look(name: str) -> FileInlet:
        if not Path(name).exists():
            raise FileNotFound(name)
        return FileInlet(Path(name), Path(name).stat().st_size)

    return joined(str(path), look, step=Step(folder / "state"))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("format", FORMATS)
def test_everything_that_is_in_an_archive_is_known(form: Callable[[Path], Outlet], format: str, tmp_path: Path) -> None:  # noqa: A002  # as the flag is called
    archived(form(tmp_path / "x.tar"), tmp_path, ExportOptions(format))
    found = held_by(inlet(tmp_path / "x.tar", tmp_path), step=Step(tmp_path / "state"))
    assert found >= KNOWN
    assert Digest.of(MANIFEST.to_json()) in found


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_delta_leaves_out_itself_is_not_known_by_it(format: str, tmp_path: Path) -> None:  # noqa: A002  # as above
    left_out = frozenset({Digest.of(LARGE)})
    archived(KeptFile(tmp_path / "x.tar"), tmp_path, ExportOptions(format, left_out))
    found = held_by(inlet(tmp_path / "x.tar", tmp_path), step=Step(tmp_path / "state"))
    assert found & KNOWN == KNOWN - left_out


def test_an_archive_may_come_through_a_pipe(tmp_path: Path) -> None:
    archived(KeptFile(tmp_path / "x.tar"), tmp_path, ExportOptions())
    with (tmp_path / "x.tar").open("rb") as file:
        assert held_by(FilePipe("-", file), step=Step(tmp_path / "state")) >= KNOWN


def test_of_a_lock_the_files_are_known(tmp_path: Path) -> None:
    lock = Lock((LockedModel.of(MANIFEST, revision="main", selection=Selection()),))
    (tmp_path / "modelcache.lock").write_text(lock.to_toml())
    assert held_by(inlet(tmp_path / "modelcache.lock", tmp_path), step=Step(tmp_path / "state")) == KNOWN


@pytest.mark.parametrize("size", [0, 1, 5_000, LEAF_SIZE, -10_240])
@pytest.mark.parametrize("format", FORMATS)
def test_an_archive_that_is_cut_off_says_nothing(size: int, format: str, tmp_path: Path) -> None:  # noqa: A002  # as above
    archived(KeptFile(tmp_path / "x.tar"), tmp_path, ExportOptions(format))
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:size])
    with pytest.raises(IntegrityError):
        held_by(inlet(tmp_path / "x.tar", tmp_path), step=Step(tmp_path / "state"))


@pytest.mark.parametrize("text", ["no lock\n", "version = 1\n[[models]]\n", "\ufffd", "x" * 34_000_000])
def test_what_is_neither_an_archive_nor_a_lock_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(ManifestInvalid):
        held_by(inlet(tmp_path / "x", tmp_path), step=Step(tmp_path / "state"))
