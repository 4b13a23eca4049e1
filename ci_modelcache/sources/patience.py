"""
The only module that keeps one call for an answer from lasting for ever.

A socket's time limit is for silence. Whoever sends a byte of a header, or of the length of a chunk, now and then, says "100
Continue" again and again, or never ends the trailer, is never silent, and `http.client` goes on reading within one call.
"""

from __future__ import annotations

import http.client
import io
import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3 import PoolManager, ProxyManager

SECONDS = 20.0
"""The longest that all headers of an answer, or one call for a piece of its body, may take."""


class _Timed(io.RawIOBase):
    """The bytes of *raw*; asking for more of them after *until* raises `TimeoutError`."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.until = math.inf

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:  # noqa: ANN401  # a buffer has no name before Python 3.12
        if time.monotonic() > self.until:
            msg = "not complete in time"
            raise TimeoutError(msg)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer of which neither the headers nor a piece may take longer than `SECONDS`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as its base has them
        super().__init__(*arguments, **named)
        self._timed = _Timed(self.fp.detach())
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        with self._limited():
            super().begin()

    def read1(self, n: int = -1) -> bytes:
        with self._limited():
            return super().read1(n)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        self._timed.until = time.monotonic() + SECONDS
        try:
            yield
        finally:
            self._timed.until = math.inf


class _Plain(HTTPConnection):
    response_class = _Response


class _Secure(HTTPSConnection):
    response_class = _Response


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS = {"http": _PlainPool, "https": _SecurePool}


class PatientAdapter(HTTPAdapter):
    """What requests sends by, for answers that end in time; also those that come through a proxy."""

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as its base has them
        super().init_poolmanager(*arguments, **named)
        _choose(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **named: Any) -> ProxyManager:  # noqa: ANN401  # as above
        manager: ProxyManager = super().proxy_manager_for(*arguments, **named)
        _choose(manager)
        return manager


def _choose(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = dict(_POOLS)
