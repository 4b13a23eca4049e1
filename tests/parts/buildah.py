"""The only module that runs buildah: the second builder, with a store of its own and the base images of `engine`."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from tests.parts.engine import NO_PYTHON, PYTHON, Done, Engine, run_builder, saving, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.parts.images import Layer, Saved


@frozen
class Buildah:
    """buildah with all that it keeps below *folder*, in overlays as the engine has them: with vfs each layer would copy all below it."""

    folder: Path

    def buildah(self, *arguments: str | Path) -> Done:
        """Any command."""
        stores = ["--storage-driver=overlay", f"--root={self.folder}/root", f"--runroot={self.folder}/run"]
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environ = {
            "PATH": f"/usr/bin:/usr/sbin:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(temporary),
            "BUILDAH_ISOLATION": "chroot",
            "REGISTRIES_CONFIG_PATH": str(self.folder / "registries.conf"),
        }
        return run_builder(["buildah", *stores, *map(str, arguments)], environ=environ)

    def image(self, name: str = "image") -> str:
        """A new name for an image."""
        return f"localhost/ci-modelcache-test/{name}:{uuid.uuid4().hex[:12]}"

    def build(
        self,
        context: Path,
        *arguments: str | Path,
        tag: str = "",
        dockerfile: Path | None = None,
        secrets: Mapping[str, Path] | None = None,
        no_cache: bool = False,
        layers: bool = True,
    ) -> Done:
        """``buildah build`` with a layer for each instruction, as an engine makes them, or with one for each stage, which is faster."""
        options = words(tag=tag, dockerfile=dockerfile, secrets=secrets, no_cache=no_cache)
        options += [f"--layers={str(layers).lower()}", "--network=host"]
        return self.buildah("build", *options, *arguments, context)

    def saved(self, image: str) -> AbstractContextManager[Saved]:
        """The image as a whole while the block runs."""
        return saving(self.folder, lambda path: self.buildah("push", image, f"docker-archive:{path}"))

    def layers(self, image: str) -> tuple[Layer, ...]:
        """All its layers, from the base on."""
        with self.saved(image) as saved:
            return saved.layers

    def remove(self, image: str) -> None:
        """Remove an image, whether it is there or not."""
        self.buildah("rmi", "--force", image)

    def add_base(self, tar: Path, name: str) -> None:
        """Make the image *name* of a root file system."""
        (self.folder / "base").mkdir(exist_ok=True)
        (self.folder / "base" / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["bash"]\n')
        shutil.copyfile(tar, self.folder / "base" / "root.tar")
        done = self.build(self.folder / "base", tag=f"localhost/{name}", layers=False)
        shutil.rmtree(self.folder / "base")
        assert done.code == 0, done


@pytest.fixture(scope="session")
def buildah(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """A buildah that knows the same base images."""
    folder = tmp_path_factory.mktemp("buildah")
    # A short name is an image of this machine, and no registry is asked.
    (folder / "registries.conf").write_text('unqualified-search-registries = []\nshort-name-mode = "disabled"\n')
    running = Buildah(folder)
    try:
        running.add_base(engine.folder / "python.tar", PYTHON)
        running.add_base(engine.folder / "no-python.tar", NO_PYTHON)
        yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Builder = Engine | Buildah
"""Either of them: `build`, `image`, `layers`, `saved` and `remove` mean the same."""


@pytest.fixture(params=["engine", "buildah"])
def builder(request: pytest.FixtureRequest) -> Builder:
    """Each builder in turn."""
    found: Builder = request.getfixturevalue(request.param)
    return found
