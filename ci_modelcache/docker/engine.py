"""
The only module that connects to an engine: it looks at images, and reads files out of them without running them.

The SDK `docker` is an extra, imported when it is used. None of its errors, nor of the libraries below it, leaves this module.
An engine that says nothing is given up after `SILENCE`; whatever it does, no call outlasts the deadline.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    ConfigError,
    FileNotFound,
    ImageNotFound,
    ModelCacheError,
    Stalled,
    Unavailable,
)
from ci_modelcache.model.redact import redact
from ci_modelcache.sources.transport import causes_of
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

_log = logging.getLogger(__name__)

SILENCE = 60.0
"""Seconds; an engine on a busy disk may need some of them for its first byte."""
EXTRA = "ci-modelcache[docker]"
OWNED = "io.ci-modelcache.reading"
"""The label of the containers that are made to read files; its value is the image."""

_NEEDED = (1, 24)
"""The oldest version of the engine's API that the SDK speaks: that of Docker 1.12."""
_REMOVAL = 10.0
"""Seconds for removing a container, also after the deadline."""
_PIECE = 1024 * 1024
_TELL_WHERE = "start it, or say with DOCKER_HOST where it listens; `docker version` asks the same one"
_REFUSED = frozenset({401, 403})
_MALFORMED, _NOT_THERE, _SERVER = 400, 404, 500


@frozen
class EngineImage:
    """An image as its engine knows it; *size* in bytes, *layers* are the digests of their content (diff ids), first to last."""

    id: str
    tags: tuple[str, ...]
    size: int
    layers: tuple[str, ...]
    platform: str
    labels: dict[str, str]


@contextmanager
def connect(environ: Mapping[str, str], *, deadline: Deadline) -> Iterator[Engine]:
    """
    The engine that the `docker` command would use: that of DOCKER_HOST, else of the current context, else of this machine.

    It has answered. Raises `ConfigError` when the SDK is missing, the settings are wrong or the engine is too old, `Unavailable`
    when nobody answers and `AccessDenied` when this user may not ask.
    """
    try:
        import docker  # noqa: PLC0415  # an extra
    except ImportError as error:
        msg = "reading images needs the package docker, which is not installed"
        raise ConfigError(msg, hint=f"pip install '{EXTRA}'") from error
    where, settings = _address(environ)
    limit = deadline.at_most(SILENCE)
    with _explaining("connecting", where):
        # With a version, so that the first request is ours: the SDK's own tells no reason that could be understood.
        asking = docker.APIClient(**settings, version=_dotted(_NEEDED), timeout=limit)
    with closing(asking):
        version = _version(asking, where, deadline)
    with _explaining("connecting", where):
        api = docker.APIClient(**settings, version=version, timeout=limit)
    with closing(api):
        yield Engine(api, where, deadline)


def _version(api: Any, where: str, deadline: Deadline) -> str:  # noqa: ANN401  # the SDK has no types
    """The version of the API that the engine speaks; raises `ConfigError` unless that will do."""
    found = _call(partial(api.version, api_version=False), where, deadline, doing="asking for its version")
    spoken = str(found.get("ApiVersion", "")) if isinstance(found, dict) else ""
    try:
        enough = tuple(map(int, spoken.split("."))) >= _NEEDED
    except ValueError:
        msg = f"{where}: expected the version of an engine, got {spoken!r:.50}"
        raise ConfigError(msg, hint="is that another service? say with DOCKER_HOST where the engine listens") from None
    if not enough:
        msg = f"{where}: the engine is too old: it speaks version {spoken} of the API, and {_dotted(_NEEDED)} is needed"
        raise ConfigError(msg, hint="upgrade the engine to Docker 1.12 or newer")
    return spoken


class Engine:
    """One engine that answered; *where* is its address without secrets. Every method ends within *deadline*."""

    def __init__(self, api: Any, where: str, deadline: Deadline) -> None:  # noqa: ANN401  # as above
        self._api = api
        self.where = where
        self.deadline = deadline

    def image(self, name: str) -> EngineImage:
        """The image of that *name* or id; raises `ImageNotFound`: nothing is pulled."""
        try:
            plain = self._ask(partial(self._api.inspect_image, name), doing=f"looking at {name}")
        except FileNotFound as error:
            msg = f"the engine at {self.where} has no image {name}"
            raise ImageNotFound(
                msg, hint=f"docker pull {name}, or build it; `docker images` lists what it has"
            ) from error
        config = plain.get("Config") or {}
        return EngineImage(
            id=plain["Id"],
            tags=tuple(plain.get("RepoTags") or ()),
            size=plain.get("Size") or 0,
            layers=tuple((plain.get("RootFS") or {}).get("Layers") or ()),
            platform="/".join(filter(None, (plain.get(key) for key in ("Os", "Architecture", "Variant")))),
            labels=config.get("Labels") or {},
        )

    @contextmanager
    def files_of(self, image: EngineImage) -> Iterator[ImageFiles]:
        """
        Read files of *image*, by way of a container that is made and never started.

        It is removed when the block ends, however it ends. Where that fails, a warning says how to do it by hand.
        """
        name = f"ci-modelcache-{secrets.token_hex(6)}"
        # Removed by its name, as Ctrl-C may come before its id does.
        files = ImageFiles(self, self._api, name)
        try:
            self._ask(
                partial(
                    self._api.create_container,
                    image.id,
                    command=["never-started"],  # an image without a command cannot be made a container otherwise
                    name=name,
                    labels={OWNED: image.id},
                    network_disabled=True,
                ),
                doing="making a container that is never started",
            )
            yield files
        finally:
            files.end()
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove the container, within time of its own, with the volumes that the engine made for it."""
        self._api.timeout = _REMOVAL
        remove = partial(self._api.remove_container, name, v=True, force=True)
        try:
            _call(remove, self.where, Deadline(_REMOVAL), doing="removing the container")
        except FileNotFound:
            _log.debug("%s: there is no container %s", self.where, name)
        except ModelCacheError as error:
            _log.warning("%s; it is left behind: docker rm -v %s", error, name)

    def _ask(self, request: Callable[[], T], *, doing: str) -> T:
        self._api.timeout = self.deadline.at_most(SILENCE)
        return _call(request, self.where, self.deadline, doing=doing)


class ImageFiles:
    """The files of one image, for as long as the container *name* is there."""

    def __init__(self, engine: Engine, api: Any, name: str) -> None:  # noqa: ANN401  # as above
        self._engine = engine
        self._api = api
        self._name = name
        self._open: list[Any] = []

    @contextmanager
    def archive(self, folder: str) -> Iterator[Iterator[bytes]]:
        """
        The bytes of a tar archive of all below *folder*, whose names begin with ``./``; links on the way to it are followed.

        Raises `FileNotFound` when there is no such folder. The bytes may end with `BrokenOff` or `Stalled`.
        """
        doing = f"reading {folder}"
        where, deadline = self._engine.where, self._engine.deadline
        # Not by the SDK's get_archive, which takes the time limit off the connection.
        url = f"{self._api.base_url}/v{self._api.api_version}/containers/{self._name}/archive"
        named = {"params": {"path": f"{folder}/."}, "headers": {"Accept-Encoding": "identity"}}
        with _in_time(deadline, doing), _explaining(doing, where):
            response = self._api.get(url, **named, stream=True, timeout=deadline.at_most(SILENCE))
        self._open.append(response)
        try:
            if response.status_code == _NOT_THERE:
                msg = f"the image has no folder {folder}"
                raise FileNotFound(msg)
            if not response.ok:
                raise _refusal(response.status_code, response.text, f"{where}: {doing}")
            yield self._pieces(response, doing)
        finally:
            self._open.remove(response)
            response.close()

    def end(self) -> None:
        """
        Cut off whatever another thread still reads.

        It may be left behind at the deadline or by Ctrl-C, and the engine removes no container that is being read.
        """
        for response in tuple(self._open):
            with suppress(OSError, ValueError, RuntimeError):  # it has just ended by itself
                response.raw.shutdown()

    def _pieces(self, response: Any, doing: str) -> Iterator[bytes]:  # noqa: ANN401  # as above
        pieces = response.iter_content(_PIECE)
        deadline = self._engine.deadline
        while True:
            with _in_time(deadline, doing), _explaining(doing, self._engine.where):
                piece = next(pieces, None)
            if piece is None:
                return
            deadline.check(doing)
            yield piece


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _address(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Where the engine is, for people, and what the SDK calls that."""
    from docker import context, errors, utils  # noqa: PLC0415  # an extra

    try:
        settings: dict[str, Any] = utils.kwargs_from_env(environment=environ or {"DOCKER_HOST": ""})
        if "base_url" in settings:
            return f"{redact(settings['base_url'])} (DOCKER_HOST)", settings
        name = environ.get("DOCKER_CONTEXT") or None
        # Where there is no such file, the SDK would look for contexts in the working directory.
        known = name is None or utils.config.find_config_file() is not None
        chosen = context.ContextAPI.get_context(name) if known else None
        if chosen is None:
            msg = f"DOCKER_CONTEXT names {name}, and there is no such context beside the config.json of docker"
            raise ConfigError(
                msg, hint="`docker context ls` lists them; or say with DOCKER_HOST where the engine listens"
            )
        settings["base_url"] = chosen.Host
        if chosen.TLSConfig is not None:
            settings["tls"] = chosen.TLSConfig
    except errors.DockerException as error:
        msg = f"the settings of docker cannot be used: {redact(str(error)):.300}"
        raise ConfigError(msg, hint="check DOCKER_HOST, DOCKER_CERT_PATH and DOCKER_CONTEXT") from error
    named = "" if chosen.name == "default" else f" (context {chosen.name})"
    return f"{redact(chosen.Host)}{named}", settings


def _call(request: Callable[[], T], where: str, deadline: Deadline, *, doing: str) -> T:
    """The answer to *request*, with errors of ours, and within *deadline*."""

    def explained() -> T:
        with _explaining(doing, where):
            return request()

    with _in_time(deadline, doing):
        return bounded(explained, deadline=deadline, doing=f"{doing} ({where})")


@contextmanager
def _in_time(deadline: Deadline, doing: str) -> Iterator[None]:
    """Call it a matter of the deadline when the time that was left was too short for the engine."""
    try:
        yield
    except Unavailable as error:
        if deadline.remaining() <= 0:
            raise deadline.exceeded(doing, because=error) from error
        raise


@contextmanager
def _explaining(doing: str, where: str) -> Iterator[None]:
    """Turn what the SDK and those below it raise into errors of ours."""
    from docker import errors  # noqa: PLC0415  # an extra

    try:
        yield
    except ModelCacheError:
        raise
    except errors.APIError as error:
        text = str(error.explanation or error)
        raise _refusal(error.status_code or _SERVER, text, f"{where}: {doing}") from error
    except errors.DockerException as error:
        msg = f"{where}: {doing}: {redact(str(error)):.300}"
        raise ConfigError(msg, hint="check DOCKER_HOST; ssh:// needs pip install 'docker[ssh]'") from error
    except OSError as error:  # what `requests` raises is one
        raise _outage(causes_of(error), where, doing) from error


def _refusal(status: int, text: str, doing: str) -> ModelCacheError:
    """What a *status* other than success means."""
    msg = f"{doing}: {redact(text.strip()):.300}"
    if status == _NOT_THERE:
        return FileNotFound(msg)
    if status in _REFUSED:
        return AccessDenied(msg, hint="ask whoever runs the engine to let you read images")
    if status == _MALFORMED:
        return ConfigError(msg, hint="check the name of the image, and DOCKER_HOST and DOCKER_TLS_VERIFY")
    return Unavailable(msg, hint="look at the engine's log")


def _outage(causes: list[BaseException], where: str, doing: str) -> ModelCacheError:
    """What the system said, as the one error of ours that tells the remedy."""
    said = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    why = redact(said[-1] if said else str(causes[-1]))[:200]
    told: tuple[tuple[type[BaseException], ModelCacheError], ...] = (
        (
            PermissionError,
            AccessDenied(
                f"this user may not use the engine at {where}: {why}",
                hint="let it belong to the group of the socket (often docker), or run as one who may",
            ),
        ),
        (
            ssl.SSLError,
            ConfigError(f"{where}: {doing}: TLS failed: {why}", hint="check DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"),
        ),
        (TimeoutError, Stalled(f"{where}: {doing}: no answer in time", hint="look at the engine's log, or restart it")),
        (FileNotFoundError, Unavailable(f"there is no engine at {where}: {why}", hint=_TELL_WHERE)),
        (ConnectionRefusedError, Unavailable(f"there is no engine at {where}: {why}", hint=_TELL_WHERE)),
    )
    found = (error for kind, error in told if any(isinstance(cause, kind) for cause in causes))
    return next(found, BrokenOff(f"{where}: {doing}: {why}", hint=_TELL_WHERE))
