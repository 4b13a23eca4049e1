"""The only module that reads the file of ``--from-urls``, in place of the store of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ci_modelcache.cli.targets import Target
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.document import MAX_DOCUMENT
from ci_modelcache.settings import Mode

if TYPE_CHECKING:
    from ci_modelcache.cache.urls import UrlList
    from ci_modelcache.cli.run import Run

_SECRETS = Path("/run/secrets")
"""Where builds mount secrets, unless told otherwise."""
_REMEDY = "write it with ci-modelcache presign -o urls.json"


def reading_urls(run: Run, name: str, *, locked: bool) -> tuple[Target, ...]:
    """
    Let *run* read the store by the URLs in the file *name*, and by nothing else; returns the models that are there.

    Unless they are *locked*, the name of a Hub is a part of theirs: `ConfigError` when all are of another one.
    """
    from ci_modelcache.cache.presigned import PresignedStore  # noqa: PLC0415  # `requests` is slow to import
    from ci_modelcache.sources.direct import DirectSession  # noqa: PLC0415  # as above

    if run.config.mode is Mode.OFF:
        msg = "--from-urls names a store, and there is to be none: the mode is off"
        raise ConfigError(msg, hint=f"{run.why_not_saved}; give --mode read")
    listed, host = read_urls(name), run.nobody.host
    others = sorted({model.host for model in listed.models} - {host})
    if not locked and others and all(model.host != host for model in listed.models):
        msg = f"the list of URLs {name} is of models of {', '.join(others)}, and the endpoint is {run.config.endpoint}"
        raise ConfigError(msg, hint="set --endpoint, or HF_ENDPOINT, as it was where the list was made")
    session = DirectSession(ca_bundle=run.config.store_ca_bundle, secrets=run.secrets)
    run.instead = PresignedStore(listed, session=session, deadline=run.retry.deadline)
    return tuple(Target(model.meant, model.selection) for model in listed.models)


def read_urls(name: str) -> UrlList:
    """The list in the file *name*; raises `ConfigError` when it cannot be read, and as `UrlList.from_json`."""
    from ci_modelcache.cache.urls import UrlList  # noqa: PLC0415  # as above

    if not name:
        msg = "--from-urls names no file"
        raise ConfigError(msg, hint="an unset variable makes it empty")
    path = Path(name).absolute()
    try:
        with path.open("rb") as file:
            # One byte more than is allowed, which the parser then refuses.
            data = file.read(MAX_DOCUMENT + 1)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        msg = f"the list of URLs {path} cannot be read: {error.strerror}"
        raise ConfigError(
            msg, hint="check its owner and mode; in a build, uid= of the mount says who may read a secret"
        ) from error
    if not data.strip():
        msg = f"the list of URLs {path} is empty"
        raise ConfigError(msg, hint=f"the command that should have written it failed: {_REMEDY}")
    return UrlList.from_json(data, str(path))


def _missing(path: Path) -> ConfigError:
    if path.is_relative_to(_SECRETS) and path != _SECRETS:
        name = path.name
        msg = f"there is no {path}: the secret {name} was not given to this build"
        give = f"docker build --secret id={name},src=urls.json, and in the Dockerfile RUN --mount=type=secret,id={name}"
        return ConfigError(msg, hint=f"{give}; {_REMEDY}")
    return ConfigError(f"there is no list of URLs {path}", hint=_REMEDY)
