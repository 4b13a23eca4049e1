"""The only module that keeps the key under which tokens are written: in the keyring of the system, else in a file of its user."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen

from ci_modelcache.errors import ConfigError, DeadlineExceeded
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.land import explaining_refusal, replacing
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

SERVICE, USER = "ci-modelcache", "key of the tokens"
"""Under which name a keyring has the key."""
FILE = "key"
"""The file that has it where there is no keyring, beside the tokens."""

KEY_BYTES = 32
_APART = "give each user a state folder of his own, with CI_MODELCACHE_STATE"
_PATIENCE = 10.0
"""Seconds that a keyring gets: one that is locked may wait for somebody to type a password."""


@frozen
class Key:
    """A key for AES-256; *kept* says where it is, for people."""

    secret: bytes = field(repr=False)
    kept: str

    @property
    def id(self) -> str:
        """By which it is known, and nothing else about it."""
        return hashlib.sha256(b"ci-modelcache key\0" + self.secret).hexdigest()[:16]


class Keyring(Protocol):
    """What is needed of a backend of the library ``keyring``."""

    @property
    def name(self) -> str:
        """How people know it."""

    def get_password(self, service: str, username: str, /) -> str | None:
        """What is kept under that name."""

    def set_password(self, service: str, username: str, password: str, /) -> None:
        """Keep it."""


def load_key(folder: Path, *, keyring: Callable[[], Keyring | None]) -> Key:
    """
    The key for the tokens in *folder*, made when there is none; in the *keyring* if there is one that works.

    Raises `ConfigError` for a key file that others could read or could have written, `AccessDenied` for a folder that
    cannot be written. Processes that make it at the same time get the same one.
    """
    backend = keyring()
    if backend is not None:
        secret = _of_keyring(backend)
        if secret is not None:
            return Key(secret, f"a key in the keyring of the system ({backend.name})")
    path = folder / FILE
    if not path.exists():
        _make(path)
    return Key(_read(path), f"a key in {path}")


def system_keyring() -> Keyring | None:
    """The keyring of this system, or None when there is none that keeps anything."""
    try:
        import keyring  # noqa: PLC0415  # an extra
        from keyring.core import recommended  # noqa: PLC0415  # as above

        backend = keyring.get_keyring()
        return backend if recommended(backend) else None
    except ImportError as error:
        _log.debug("there is no keyring: %s", error)
    except Exception as error:  # noqa: BLE001  # a configuration that names no backend raises whatever comes to its mind
        _log.warning("the keyring of the system does not work: %s: a key file is used", type(error).__name__)
    return None


def _of_keyring(backend: Keyring) -> bytes | None:
    """The key in *backend*, made when there is none; None when it does not work, which is told."""
    found: list[bytes] = []

    def ask(_item: None) -> None:
        text = backend.get_password(SERVICE, USER)
        if text is None:
            backend.set_password(SERVICE, USER, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())
            # Read again: of two processes that make one, the later wins.
            text = backend.get_password(SERVICE, USER)
        found.append(base64.b64decode(text or "", validate=True))

    try:
        for_each([None], ask, workers=1, deadline=Deadline(_PATIENCE), doing="asking the keyring")
    except DeadlineExceeded:
        _log.warning("the keyring of the system did not answer within %g s: a key file is used", _PATIENCE)
        return None
    except Exception as error:  # noqa: BLE001  # backends raise what their system raises
        _log.warning("the keyring of the system does not work: %s: a key file is used", type(error).__name__)
        return None
    if not found or len(found[0]) != KEY_BYTES:
        _log.warning("the keyring of the system has something else under the name %s: a key file is used", SERVICE)
        return None
    return found[0]


def _make(path: Path) -> None:
    # FileExistsError: another process was faster, and its key is the one.
    with explaining_refusal(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError), replacing(path, mode=0o600, create_only=True) as file:
            file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)))


def _read(path: Path) -> bytes:
    hint = f"remove {path}: tokens are asked for anew, and those of auth login have to be given again"
    try:
        # Not through a link, and looked at when open: what is checked is what is read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
            _check(os.fstat(descriptor), path)
            text = file.read(256)
    except OSError as error:
        msg = f"cannot read the key of the tokens, {path}: {error.strerror}"
        raise ConfigError(msg, hint=_APART if error.errno == errno.EACCES else hint) from error
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        msg = f"the key of the tokens is damaged: {path}"
        raise ConfigError(msg, hint=hint)
    return secret


def _check(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        msg = f"the key of the tokens is no file: {path}"
        raise ConfigError(msg, hint="move it away")
    if found.st_uid != os.geteuid():
        msg = f"the key of the tokens belongs to the user with number {found.st_uid}, not to {os.geteuid()}: {path}"
        raise ConfigError(msg, hint=_APART)
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        msg = f"others may use the key of the tokens: {path} has mode {stat.S_IMODE(found.st_mode):04o}, expected 0600"
        hint = f"chmod 600 {path}; if others could read it ({mode:03o}), remove it and have the tokens revoked"
        raise ConfigError(msg, hint=hint)
