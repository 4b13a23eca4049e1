"""``ci-modelcache dockerfile``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import frozen

from ci_modelcache.cli.command import verb
from ci_modelcache.cli.from_urls import read_urls
from ci_modelcache.cli.targets import Asked, folders, locks, targets
from ci_modelcache.config import Rank
from ci_modelcache.docker.dockerfile import Recipe, Secret, Style, dockerfile
from ci_modelcache.docker.labels import ImageLayout
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.mirror import Kind
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.address import file_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci_modelcache.cli.run import Run
    from ci_modelcache.docker.dockerfile import Address
    from ci_modelcache.model.lock import LockedModel
    from ci_modelcache.model.manifest import FileEntry


@frozen
class _Printed:
    """What was printed, for ``--json``."""

    style: str
    dockerfile: str


@verb(
    "dockerfile",
    settings=("lock-file",),
    examples=(
        ("a stage that restores what the lock says", "ci-modelcache dockerfile --base debian:12 > Dockerfile"),
        (
            "the models come with the context",
            "ci-modelcache dockerfile --base debian:12 --style copy > Dockerfile && ci-modelcache docker build -t app .",
        ),
        (
            "Docker downloads each file, from a mirror",
            "ci-modelcache dockerfile --base debian:12 --style add --mirror https://hub.internal",
        ),
        ("transformers finds them by name", "ci-modelcache dockerfile --base debian:12 --layout hub"),
    ),
)
@click.option(
    "--style",
    type=click.Choice([style.value for style in Style]),
    default=Style.RUN.value,
    help="run (default): a stage restores them; copy: from the context; add: Docker downloads each file.",
)
@click.option("--base", required=True, metavar="IMAGE", help="The image that the models are added to.")
@click.option("--to", default="/models", metavar="DIR", help="The folder for them in the image; default: /models.")
@click.option(
    "--layout",
    type=click.Choice([layout.value for layout in ImageLayout]),
    default=ImageLayout.PLAIN.value,
    help="plain (default): DIR/ORG/NAME; hub: DIR is the cache in which libraries find models by name.",
)
@click.option(
    "--python-image",
    default="python:3.12-slim",
    metavar="IMAGE",
    help="run: the image of the stage that restores, with Python 3.11 or newer; default: python:3.12-slim.",
)
@click.option(
    "--secret",
    type=click.Choice([secret.value for secret in Secret]),
    help="run: what the stage is lent: a file of AWS credentials, or of presigned URLs; default: aws for a store in S3.",
)
@click.option(
    "--urls",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="add: download from the presigned URLs in FILE. They can be read in the Dockerfile and in the build's provenance.",
)
def command(run: Run, /, style: str, urls: Path | None, secret: str | None, layout: str, **chosen: str) -> None:
    """
    Print a Dockerfile that brings the models of the lock.

    The lock decides what is built again: the same lock, the same layers. Settings that are in force now, such as the store, are
    written into a run stage, but never a secret. The addresses of add are no part of that decision, the checksums are; from where
    nobody says it is the Hub, or the first mirror that is one. The engine of add must be BuildKit with a frontend of 2023 or newer.
    """
    if urls is not None and style != Style.ADD:
        msg = "--urls goes with --style add"
        raise click.UsageError(msg)
    (lock,) = locks(run.config, locked=True, named=False)
    if layout == ImageLayout.PLAIN:
        # Refuses two models in one folder, as the restore in the image would.
        folders(targets(Asked((), None, None, (), ()), run.config, locks=(lock,)), chosen["to"], named=0)
    lent = Secret(secret) if secret is not None else _needed(run)
    recipe = Recipe(
        Style(style),
        layout=ImageLayout(layout),
        secret=lent,
        settings=tuple(_settings(run, lent)) if style == Style.RUN else (),
        variables=_epoch(run),
        lock_file=_in_context(run.config.lock_file),
        **chosen,
    )
    text = dockerfile(lock, recipe, address=_address(run, urls))
    run.show(_Printed(style, text), [text.removesuffix("\n")])


def _needed(run: Run) -> Secret:
    return Secret.AWS if run.config.store.startswith("s3://") else Secret.NONE


def _epoch(run: Run) -> tuple[tuple[str, str], ...]:
    epoch = run.config.source_date_epoch
    return (("SOURCE_DATE_EPOCH", str(epoch)),) if epoch else ()


def _in_context(lock_file: Path) -> str:
    """The path of the lock in a context that is the working directory; one elsewhere is to be copied to its top."""
    here = Path.cwd()
    return lock_file.relative_to(here).as_posix() if lock_file.is_relative_to(here) else lock_file.name


def _settings(run: Run, secret: Secret) -> Iterator[str]:
    """The flags of settings that somebody made, as far as they mean something in a build."""
    config = run.config
    values: dict[str, Sequence[str | None]] = {
        "endpoint": [config.endpoint],
        "mirrors": [mirror.url for mirror in config.mirrors if "://" in mirror.url],
        "deadline": [None if config.deadline is None else f"{config.deadline:.15g}s"],
    }
    if secret is not Secret.URLS:
        values |= {"store": [_store(run)], "endpoint-url": [config.endpoint_url], "region": [config.region]}
    for name, texts in values.items():
        if config.origins[name].rank is Rank.DEFAULT:
            continue
        for text in texts:
            if text is not None:
                _refuse_secret(run, name, text)
                yield from ("--mirror" if name == "mirrors" else f"--{name}", text)
    if config.offline:
        yield "--offline"


def _store(run: Run) -> str | None:
    config = run.config
    if config.store.startswith("s3://") or config.origins["store"].rank is Rank.DEFAULT:
        return config.store
    msg = f"the store is {config.store}, a folder of this machine, which a build cannot see"
    raise ConfigError(
        msg,
        hint="bring the models with the context: --style copy; or name a store that a build can reach: --store s3://...",
    )


def _refuse_secret(run: Run, name: str, text: str) -> None:
    if redact(text, secrets=run.secrets) != text:
        msg = (
            f"the setting {name} ({run.config.origins[name]}) has a secret in it, and a Dockerfile is read by everybody"
        )
        raise ConfigError(msg, hint="take it out; docs/dockerfile.md says how a build is lent credentials")


def _address(run: Run, urls: Path | None) -> Address:
    """From where a file is downloaded."""
    if urls is not None:
        listed = read_urls(str(urls))
        return lambda _model, file: listed.of_blob(file.sha256)
    hubs = [mirror.url for mirror in run.config.mirrors if mirror.kind is Kind.HUB]
    base = (hubs or [run.config.endpoint])[0]
    return partial(_file_url, base)


def _file_url(base: str, model: LockedModel, file: FileEntry) -> str:
    return file_url(base, model.type, model.repo, commit=model.commit, path=file.path)
