"""
The only module that writes tokens to the disk: each in a file of its own, encrypted (AES-256-GCM).

A file is JSON: for whom and until when in the open, so that it can be listed, but sealed with the token, so that
nobody can change it. The key is kept by `sources.tokens.key`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from functools import cached_property
from secrets import token_bytes
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from ci_modelcache.errors import AccessDenied, ModelCacheError, NoSpace
from ci_modelcache.model.document import from_json, to_json, to_plain
from ci_modelcache.sources.token import Token
from ci_modelcache.sources.tokens.issued import Issued
from ci_modelcache.sources.tokens.key import KEY_BYTES, Key, Keyring, load_key, system_keyring
from ci_modelcache.transfer.land import explaining_refusal, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_log = logging.getLogger(__name__)

EXTRA = "ci-modelcache[auth]"
"""What is to be installed for tokens on the disk."""
DAMAGED = ".damaged"
"""Appended to the name of a file that cannot be what was written."""

_SUFFIX = ".token"
_FORMAT = 1
_NONCE = 12


@frozen
class Label:
    """Whose token: for *host*, of *provider* as people know it, and asked for by *identity*, which may be secret."""

    host: str
    provider: str
    identity: str = ""


@frozen
class Note:
    """What a file says about its token in the open."""

    host: str
    provider: str
    since: float
    until: float | None
    key: str
    """The id of the key that it is encrypted with."""
    format: int = _FORMAT


@frozen
class Sealed:
    """A file: *note* in the open, *nonce* and *sealed* in base64."""

    note: Note
    nonce: str
    sealed: str


class Vault(Protocol):
    """Where tokens outlast the process; what cannot be read is not there, and is told in the log."""

    @property
    def protection(self) -> str:
        """How they are kept, for people."""

    @property
    def keeps(self) -> bool:
        """Whether they outlast the process at all."""

    def get(self, label: Label) -> Issued | None:
        """The token that was `put` there and is not `drop`ped; None when there is none."""

    def put(self, label: Label, issued: Issued) -> None:
        """Keep *issued* until it ends. A disk that is full or cannot be written is told in the log, and nothing is kept."""

    def drop(self, label: Label) -> None:
        """Keep it no longer; where it cannot be removed, that is told in the log."""

    def drop_all(self, host: str) -> int:
        """Keep none for *host* any longer, whoever asked for it; returns how many there were."""

    def can_open(self, note: Note) -> bool:
        """Whether the key of *note* is the one that is here now."""

    def notes(self) -> tuple[Note, ...]:
        """What is kept, by host."""


class Memory:
    """A `Vault` that keeps nothing: tokens end with the process, for want of a way to encrypt them."""

    protection = f"in memory only: pip install '{EXTRA}' to keep them encrypted"
    keeps = False

    def get(self, label: Label) -> Issued | None:
        del label
        return None

    def put(self, label: Label, issued: Issued) -> None:
        del label, issued

    def drop(self, label: Label) -> None:
        del label

    def drop_all(self, host: str) -> int:
        del host
        return 0

    def can_open(self, note: Note) -> bool:
        del note
        return False

    def notes(self) -> tuple[Note, ...]:
        return ()


def open_vault(
    folder: Path, *, now: Callable[[], float] = time.time, keyring: Callable[[], Keyring | None] = system_keyring
) -> Vault:
    """The tokens in *folder*, with the key in the *keyring* if there is one, or `Memory` where the library is missing that encrypts."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # an extra
    except ImportError:
        return Memory()
    return Encrypted(folder, cipher=AESGCM, now=now, keyring=keyring)


class Encrypted:
    """A `Vault` in *folder*. The key is looked for when it is needed, and raises as `load_key` does."""

    keeps = True

    def __init__(
        self,
        folder: Path,
        *,
        cipher: type[AESGCM],
        now: Callable[[], float],
        keyring: Callable[[], Keyring | None],
    ) -> None:
        self._folder = folder
        self._keyring = keyring
        self._cipher = cipher
        self._now = now

    @cached_property
    def _key(self) -> Key:
        try:
            return load_key(self._folder, keyring=self._keyring)
        except (AccessDenied, NoSpace, OSError) as error:
            # State that cannot be written is state that is lost, which must harm nobody.
            _log.warning("tokens are kept in memory only: %s", error)
            return Key(token_bytes(KEY_BYTES), "a key that ends with this process")

    @property
    def protection(self) -> str:
        return f"encrypted (AES-256-GCM) in {self._folder}, with {self._key.kept}"

    def get(self, label: Label) -> Issued | None:
        path = self._path(label)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read the token in %s: %s", path, error.strerror)
            return None
        try:
            return self._opened(data, label, path)
        except (ModelCacheError, ValueError) as error:
            _set_aside(path, error)
            return None

    def _opened(self, data: bytes, label: Label, path: Path) -> Issued | None:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # an extra

        sealed = from_json(data, Sealed, str(path))
        note = sealed.note
        nonce, text = (base64.b64decode(part, validate=True) for part in (sealed.nonce, sealed.sealed))
        expected = Note(label.host, label.provider, note.since, note.until, self._key.id)
        if note != expected:
            msg = "it is for somebody else, of another version, or encrypted with another key"
            raise ValueError(msg)
        try:
            secret = self._cipher(self._key.secret).decrypt(nonce, text, to_json(note)).decode()
        except InvalidTag as error:
            msg = "it was changed, or encrypted with another key"
            raise ValueError(msg) from error
        return Issued(Token(secret), note.since, note.until)

    def put(self, label: Label, issued: Issued) -> None:
        note = Note(label.host, label.provider, issued.since, issued.until, self._key.id)
        nonce = token_bytes(_NONCE)
        text = self._cipher(self._key.secret).encrypt(nonce, issued.token.secret.encode(), to_json(note))
        sealed = Sealed(note, *(base64.b64encode(part).decode() for part in (nonce, text)))
        path = self._path(label)
        try:
            with explaining_refusal(path):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with replacing(path, mode=0o600) as file:
                    file.write(json.dumps(to_plain(sealed)).encode())
        except (OSError, ModelCacheError) as error:
            _log.warning("the token for %s is not kept: %s", label.host, error)
        self._tidy()

    def drop(self, label: Label) -> None:
        _remove(self._path(label), label.host)

    def drop_all(self, host: str) -> int:
        found = [path for path, note in self._files() if note.host == host]
        with explaining_refusal(self._folder):
            for path in found:
                path.unlink(missing_ok=True)
        return len(found)

    def notes(self) -> tuple[Note, ...]:
        return tuple(sorted((note for _, note in self._files()), key=lambda note: (note.host, note.provider)))

    def can_open(self, note: Note) -> bool:
        return note.key == self._key.id

    def _files(self) -> Iterator[tuple[Path, Note]]:
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            note = _note(path)
            if note is not None:
                yield path, note

    def _tidy(self) -> None:
        """Remove what has ended: each job of a CI system has a token of its own, which nobody asks for again."""
        for path, note in self._files():
            if note.until is not None and note.until < self._now():
                _remove(path, note.host)

    def _path(self, label: Label) -> Path:
        # With the key, so that a short secret in the identity cannot be guessed from the name.
        text = json.dumps([label.host, label.provider, label.identity]).encode()
        return self._folder / f"{hmac.new(self._key.secret, text, hashlib.sha256).hexdigest()[:32]}{_SUFFIX}"


def _note(path: Path) -> Note | None:
    """What *path* says in the open; None for one that is gone or says nothing."""
    try:
        return from_json(path.read_bytes(), Sealed, str(path)).note
    except (OSError, ModelCacheError) as error:
        _log.info("cannot list the token in %s: %s", path, error)
        return None


def _remove(path: Path, host: str) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("the token for %s could not be removed: %s: %s", host, path, error.strerror)


def _set_aside(path: Path, why: Exception) -> None:
    _log.warning("the token in %s cannot be used: %s; it is put aside, and a new one is asked for", path, why)
    try:
        path.replace(path.with_name(path.name + DAMAGED))
    except OSError as error:
        _log.warning("%s could not be put aside: %s", path, error.strerror)
