"""The only module that knows how connections fail: every exception of requests, urllib3 and TLS ends here."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
import urllib3

from ci_modelcache.errors import (
    AccessDenied,
    BrokenOff,
    ConfigError,
    IntegrityError,
    ModelCacheError,
    Stalled,
    Unavailable,
)
from ci_modelcache.model.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_REFUSING = {"401", "403", "407"}
_SLOW_TO_CONNECT = (requests.exceptions.ConnectTimeout,)
_SILENT = (TimeoutError, urllib3.exceptions.ReadTimeoutError)
_CUT_SHORT = (http.client.IncompleteRead,)
_ENDED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLEOFError)
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """
    Turn what the HTTP libraries raise into our errors, each beginning with *doing* ("asking x for y").

    Nearly all of it is `Unavailable`: `Stalled` for silence after the connection, `BrokenOff` for its end. Only around our own calls: never around a `yield` to a consumer,
    whose full disk is no network failure.
    """
    try:
        yield
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _translated(error, doing) from error


def _translated(error: BaseException, doing: str) -> ModelCacheError:
    causes = causes_of(error)
    explained = _certificate(causes, doing) or _setting(error, causes, doing) or _proxy(error, causes, doing)
    if explained is not None:
        return explained
    if isinstance(error, requests.exceptions.InvalidHeader):
        return IntegrityError(f"{doing}: an answer with a header that makes no sense: {_said(causes)}")
    return _passing(causes, doing)


def _passing(causes: list[BaseException], doing: str) -> Unavailable:
    """What may be otherwise the next time."""
    told: tuple[tuple[tuple[type[BaseException], ...], Unavailable], ...] = (
        (_SLOW_TO_CONNECT, Unavailable(f"{doing}: no connection in time")),
        (_SILENT, Stalled(f"{doing}: no answer in time")),
        (_CUT_SHORT, BrokenOff(f"{doing}: the connection ended early")),
        (_ENDED, BrokenOff(f"{doing}: {_said(causes)}")),
        (
            (socket.gaierror,),
            Unavailable(f"{doing}: the host name cannot be resolved", hint="check the endpoint's name and DNS"),
        ),
    )
    found = (error for kinds, error in told if any(isinstance(cause, kinds) for cause in causes))
    return next(found, Unavailable(f"{doing}: {_said(causes)}"))


def _certificate(causes: list[BaseException], doing: str) -> ModelCacheError | None:
    found = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if found is None:
        return None
    return ConfigError(
        f"{doing}: the certificate cannot be verified: {found.verify_message}",
        hint=f"if your network has a CA of its own, name its certificates with --ca-bundle (often {_CERTIFICATES})",
    )


def _setting(error: BaseException, causes: list[BaseException], doing: str) -> ModelCacheError | None:
    if any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in causes):
        hint = "if it is a server of plain HTTP, write http:// instead of https://; check HTTPS_PROXY too"
        return ConfigError(f"{doing}: whoever answers there speaks no TLS", hint=hint)
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return ConfigError(f"{doing}: {_said(causes)}", hint="check the endpoint, HTTP_PROXY and HTTPS_PROXY")
    if "CA certificate bundle" in str(error):
        # requests says so in a bare OSError when REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file.
        return ConfigError(f"{doing}: {error}", hint="correct REQUESTS_CA_BUNDLE, or unset it")
    return None


def _proxy(error: BaseException, causes: list[BaseException], doing: str) -> ModelCacheError | None:
    tunnel = _TUNNEL.search(str(error))
    if tunnel is not None and tunnel[1] in _REFUSING:
        return AccessDenied(
            f"{doing}: the proxy refuses with {tunnel[1]}",
            hint="check user and password in HTTPS_PROXY, or exempt the host with NO_PROXY",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return Unavailable(
            f"{doing}: the proxy fails: {_said(causes)}", hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        )
    return None


def causes_of(error: BaseException) -> list[BaseException]:
    """*error* and what lies below it: urllib3 keeps that in arguments and in `reason`, Python in `__cause__`."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and not any(cause is known for known in found):
            found.append(cause)
            waiting += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]
    return found


def _said(causes: list[BaseException]) -> str:
    """The words of the system where there are some: those of the libraries repeat URLs and object addresses."""
    words = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    text = words[-1] if words else str(causes[-1]) or type(causes[-1]).__name__
    return redact(text)[:200]
