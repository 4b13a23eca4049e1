"""``ci-modelcache docker build``."""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.contexts import image_options, said_of, stream
from ci_modelcache.cli.naming import locking
from ci_modelcache.cli.targets import Asked, locks, naming_file, targets
from ci_modelcache.config import environment
from ci_modelcache.docker.client import BuildReport, Client, ContextRefused, Order
from ci_modelcache.docker.dockerfile import check_folder
from ci_modelcache.docker.labels import LABEL, ImageLayout, ImageModel, label_of
from ci_modelcache.docker.streamed import check_dockerfile
from ci_modelcache.settings import variable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci_modelcache.cli.run import Run
    from ci_modelcache.docker.tree import PlacedModel
    from ci_modelcache.model.lock import Lock


@verb(
    "docker build",
    settings=("lock-file", "revision-ttl", "tier"),
    examples=(
        (
            "the models of modelcache.lock, where the Dockerfile says COPY modelcache/ /",
            "ci-modelcache docker build -t app .",
        ),
        ("with arguments for docker, after --", "ci-modelcache docker build -t app . -- --no-cache --build-arg A=1"),
        (
            "another Dockerfile, another model",
            "ci-modelcache docker build -t app -f gpu.Dockerfile --model org/name@v1.2",
        ),
    ),
)
@click.argument("words", nargs=-1, metavar="[DIR] [-- DOCKER-ARGUMENT...]")
@click.option(
    "-t", "--tag", "tags", multiple=True, required=True, metavar="NAME", help="A name for the image; repeatable."
)
@click.option(
    "--model",
    "refs",
    multiple=True,
    metavar="REF",
    envvar=variable("models"),
    help="A model; repeatable. Default: all of modelcache.lock, or else of modelcache.toml.",
)
@image_options
@locking
def command(
    run: Run,
    words: tuple[str, ...],
    *,
    tags: tuple[str, ...],
    refs: tuple[str, ...],
    file: Path | None,
    locked: bool | None,
    **chosen: str,
) -> None:
    """
    Build an image from a context, with the models in it.

    Pipes what docker context --tar makes of DIR into docker build (BuildKit), so that no copy lies on the disk, and labels the image with
    the models in it. The Dockerfile says COPY modelcache/ / where they are to be. What follows -- is given to docker as it is;
    what docker says is passed on. Its failure is exit code 1, with its reason in the last line; a failure of ours ends it.
    """
    folder, more = _divided(words)
    to, layout = check_folder(chosen["to"]), ImageLayout(chosen["layout"])
    run.ci.named_in = naming_file(run.config, locked=locked, named=bool(refs))
    held = locks(run.config, locked=locked, named=bool(refs))
    models = targets(Asked(refs, None, None, (), ()), run.config, locks=held)
    dockerfile = folder / "Dockerfile" if file is None else file
    name = check_dockerfile(folder, dockerfile)
    # Before anything is fetched: nobody shall wait for models and learn then that there is no engine.
    client = Client.find(environment(), deadline=run.step.deadline)
    prepared = stream(run, folder, dockerfile, models, held, to=to, layout=layout)
    label = label_of(_described(model, held, root=to, layout=layout) for model in prepared.models)
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "image")
        order = Order(tags, {LABEL: label}, name, image, more, mute=run.as_json)
        # On a terminal docker draws itself, and then its last lines say why it failed.
        drawn = sys.stderr.isatty() and not run.as_json
        with client.build(order, say=None if drawn else _say, deadline=run.step.deadline) as build:
            report = None
            with suppress(ContextRefused):  # then docker says why
                report = prepared.write(build)
            build.wait()
        built = image.read_text().strip() if image.exists() else ""
    context = report or prepared.report
    run.say(said_of(context))
    run.show(BuildReport(tags, built, context), tags)


def _divided(words: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """DIR, and what is for docker. Those begin with a dash, which DIR can only do after --: click has taken that away."""
    if words and not words[0].startswith("-"):
        return Path(words[0]), words[1:]
    return Path(), words


def _say(text: bytes) -> None:
    """As it is: docker's words are docker's."""
    sys.stderr.buffer.write(text)
    sys.stderr.flush()


def _described(model: PlacedModel, held: Sequence[Lock], *, root: str, layout: ImageLayout) -> ImageModel:
    """What the label says of *model*: the revision as the lock has it, where one counts."""
    ref, manifest = model.ref, model.manifest
    locked = (one for lock in held for one in lock.models if one.manifest == manifest.digest)
    names = (one.revision for one in locked if ref.revision in {one.revision, one.commit})
    return ImageModel.of(manifest, revision=next(names, ref.revision), root=root, layout=layout)
