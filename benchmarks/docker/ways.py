"""The ways to bring a model into an image: what is typed, and what each build came to."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

from attrs import frozen

from benchmarks.docker.world import PEER, ROOT, World, must
from tests.parts.engine import PYTHON
from tests.parts.upstreams import REPO

_DOWNLOAD = f"from huggingface_hub import snapshot_download as get; get('{REPO}', local_dir='/models/{REPO}')"


@frozen
class Run:
    """One build, from the first command to the finished image."""

    seconds: float
    received: int
    """Bytes that came from the store and from the Hub."""
    sent: int
    """Bytes that went to the engine."""
    engine: int
    """Bytes that the engine's folder grew by: the image, the build cache, the cache mount."""
    client: int
    """Bytes that the client's folders grew by."""
    image: int
    """Bytes of the image beyond its base."""
    layer: str
    """The digest of the layer with the model."""


@frozen
class Way:
    """One way: *says* it in words for people; *build* makes the image of that name, *prepare* is done before the clock starts."""

    name: str
    says: str
    build: Callable[[World, str], None]
    prepare: Callable[[World], None] = lambda _world: None
    base: str = PYTHON
    ours: bool = True


def _run_style(world: World) -> None:
    text = world.cli("dockerfile", "--base", PYTHON, "--python-image", PYTHON)
    (world.home / "run.Dockerfile").write_text(text)


def _copy_style(world: World) -> None:
    (world.ours / "Dockerfile").write_text(world.cli("dockerfile", "--style", "copy", "--base", PYTHON))


def _restore(world: World, image: str, *arguments: str) -> None:
    # Not by no_cache, which gives a step a new cache mount here: the text is another one each time.
    path = world.home / "run.Dockerfile"
    path.write_text(path.read_text().replace(" PYTHONDONT", f" BUILD={uuid.uuid4().hex} PYTHONDONT"))
    secrets = {"aws": world.secret}
    must(world.engine.build(world.ours, *arguments, tag=image, dockerfile=path, secrets=secrets))


def _direct(world: World, image: str) -> None:
    example, secrets = ROOT / "examples" / "docker" / "direct.Dockerfile", {"aws": world.secret}
    must(world.engine.build(world.ours, *world.settings, tag=image, dockerfile=example, secrets=secrets, no_cache=True))


def _restored_before(world: World) -> None:
    """Another build has been here, so that the cache mount has every blob; what it copied is not to be found again."""
    _run_style(world)
    _restore(world, world.engine.image("before"), "--target=models")


def _stream(world: World, image: str) -> None:
    world.shell(f"ci-modelcache docker context --tar - . | /usr/bin/docker build --no-cache --quiet --tag {image} -")


def _folder(world: World, image: str) -> None:
    world.cli("docker", "context", ".")
    must(world.engine.build(world.ours, tag=image, no_cache=True))


def _folder_again(world: World) -> None:
    """The models are in the context, from a run before; the engine has not seen them."""
    _copy_style(world)
    world.cli("docker", "context", ".")


def _download(world: World, image: str) -> None:
    text = f'FROM {PEER}\nRUN HF_ENDPOINT={world.hub_url} python3 -c "{_DOWNLOAD}"\n'
    must(world.engine.build(None, tag=image, stdin=text.encode(), no_cache=True))


def _copy(world: World, image: str) -> None:
    must(world.engine.build(world.plain, tag=image, no_cache=True))


WAYS = (
    Way("run", "RUN restore in a stage", _restore, _run_style),
    Way("direct", "RUN restore in the final stage", _direct),
    Way("tier", "RUN restore in a stage, cache mount filled", _restore, _restored_before),
    Way("stream", "docker context --tar - | docker build -", _stream, _copy_style),
    Way("context", "docker context, then COPY", _folder, _copy_style),
    Way("again", "docker context again, then COPY", _folder, _folder_again),
    Way("peer", "RUN snapshot_download of huggingface_hub", _download, base=PEER, ours=False),
    Way("copy", "COPY of a folder that is here already", _copy, ours=False),
)


def measured(way: Way, world: World) -> Run:
    """Build once by *way*, after everything was cleaned."""
    world.clean()
    way.prepare(world)
    image = world.engine.image(way.name)
    before = world.weigh()
    world.begin()
    began = time.monotonic()
    way.build(world, image)
    seconds = time.monotonic() - began
    received = world.store.carried.back + world.hub.carried.back
    sent = world.daemon.carried.to
    after = world.weigh()
    sizes = [int(_inspected(world, name, "{{.Size}}")) for name in (image, way.base)]
    return Run(
        seconds=seconds,
        received=received,
        sent=sent,
        engine=after.engine - before.engine,
        client=after.client - before.client,
        image=sizes[0] - sizes[1],
        layer=re.findall(r"sha256:\w+", _inspected(world, image, "{{.RootFS.Layers}}"))[-1],
    )


def _inspected(world: World, image: str, what: str) -> str:
    return must(world.engine.docker("image", "inspect", "--format", what, image)).strip()
