"""The only module that turns what a user writes as the place of an archive into an outlet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.cli.output import Stdout
from ci_modelcache.errors import ConfigError
from ci_modelcache.transfer.kept_file import KeptFile

if TYPE_CHECKING:
    from ci_modelcache.cli.run import Run
    from ci_modelcache.transfer.outlet import Outlet

_NOTES = "uploads"
"""The folder below that of the state."""


def outlet_of(output: str, *, split: int | None = None, zstd: bool = False, run: Run) -> Outlet:
    """
    Where *output* says that an archive goes: a file, ``s3://bucket/folder/name``, or ``-`` for stdout.

    With *split* it is cut into parts of so many bytes, and with *zstd* it is compressed before. Raises `ConfigError` for what is none of that.
    """
    if split is not None and split < 1:
        msg = f"parts of {split} bytes hold nothing"
        raise ConfigError(msg, hint="write --split 1900M")
    outlet = _outlet(output, split, run)
    if not zstd:
        return outlet
    from ci_modelcache.transfer.frames import Compressed  # noqa: PLC0415  # an extra, which few need

    return Compressed(outlet)


def _outlet(output: str, split: int | None, run: Run) -> Outlet:
    if output == "-":
        return _stdout(split, run)
    if output.lower().startswith("s3:"):
        return _object(output, split, run)
    if not output or "://" in output:
        msg = f"--output {output} is no file to write to" if output else "--output names no file"
        raise ConfigError(
            msg,
            hint="name a file or s3://bucket/name.tar; or write to stdout with -o -, for another program to take it",
        )
    path = Path(output).absolute()
    if split is None:
        return KeptFile(path)
    from ci_modelcache.transfer.parts import PartFiles  # noqa: PLC0415  # as above

    return PartFiles(path, split)


def _stdout(split: int | None, run: Run) -> Outlet:
    if run.as_json:
        msg = "--json prints the result on stdout, where the archive is to go"
        raise ConfigError(msg, hint="name a file: -o FILE")
    if split is not None:
        msg = "--split makes several files, and stdout is one"
        raise ConfigError(msg, hint="name a file: -o FILE; or let split(1) cut what comes from stdout")
    return Stdout()


def _object(url: str, split: int | None, run: Run) -> Outlet:
    from ci_modelcache.cli.opening import open_named  # noqa: PLC0415  # 0.1 s of imports that a file does not need
    from ci_modelcache.stores.objects import object_outlet  # noqa: PLC0415  # as above

    address, store = url.partition("?")[0], run.config.store.partition("?")[0].rstrip("/")
    if address.startswith(f"{store}/"):
        msg = f"{address} lies in the store itself, {store}, which holds nothing but what belongs to it"
        raise ConfigError(msg, hint="choose another folder of the bucket, or another bucket")
    return object_outlet(
        url,
        open_store=partial(open_named, run=run, create=False, needed=True),
        notes=run.config.state / _NOTES,
        split=split,
    )
