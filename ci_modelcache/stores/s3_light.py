"""
The only module that asks an S3 server without a botocore client, whose machinery costs a millisecond or two for each request.

Signatures, connections and the reading of refusals are botocore's own. What is sent is signed by the SHA-256 that it is known to have.
"""

from __future__ import annotations

import socket
from contextlib import closing
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.endpoint import EndpointCreator
from botocore.exceptions import ClientError
from botocore.httpsession import URLLib3Session, get_cert_path
from botocore.parsers import ResponseParserError, create_parser
from botocore.response import StreamingBody
from botocore.utils import parse_timestamp, percent_encode

from ci_modelcache.stores.s3_wire import MAX_CONNECTIONS, Found, Opened, spelled

if TYPE_CHECKING:
    from collections.abc import Generator
    from mmap import mmap

    from botocore.awsrequest import AWSResponse

    from ci_modelcache.stores.s3_account import Credentials
    from ci_modelcache.stores.s3_place import Place
    from ci_modelcache.stores.s3_wire import Body

_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of no bytes."""
_BLOCK = 128 * 1024
"""Bytes handed to a connection at once. Its timeout is for all of them: a whole part would run out of it on a slow link."""
_SOCKET = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_SERVICE = SimpleNamespace(endpoint_prefix="s3")
"""All that botocore asks of a service to make connections to it."""
_REFUSED = 300
"""The least status that is no success."""
_OTHER_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}


class Elsewhere(Exception):
    """The bucket is in another region, or may be."""


class _Signer(S3SigV4Auth):
    """Signs a body by the digest that is known of it."""

    def payload(self, request: Any) -> str:  # noqa: ANN401  # botocore's signature
        return str(request.context["sha256"])


class _TlsSession(URLLib3Session):
    """Reads the authorities once, and not for each connection: that takes 30 ms."""

    def __init__(self, *, verify: Any, **options: Any) -> None:  # noqa: ANN401  # passed on; the stubs know no path
        self._authorities = get_cert_path(verify) if verify else None
        super().__init__(verify=verify, **options)

    def _get_ssl_context(self) -> Any:  # noqa: ANN401  # botocore's signature
        context = super()._get_ssl_context()  # type: ignore[misc]  # the stubs leave out what begins with an underscore
        if self._authorities is not None:
            context.load_verify_locations(self._authorities)
        return context

    def _setup_ssl_cert(self, conn: Any, url: str, verify: object) -> None:  # noqa: ANN401  # as above
        super()._setup_ssl_cert(conn, url, verify)  # type: ignore[misc]  # as above
        if conn.proxy is None:  # a proxy that speaks TLS is asked with a context of urllib3's own
            conn.ca_certs = None


class Light:
    """
    A `Wire` to *place*, signed with *credentials* where there are some. A request that is sent elsewhere raises `Elsewhere`.

    *verify* is a CA bundle, or None for the one that the environment names; *timeouts* are those of connecting and of silence, in seconds.
    """

    def __init__(
        self,
        place: Place,
        credentials: Credentials | None,
        *,
        verify: str | None,
        timeouts: tuple[float, float],
        agent: str,
    ) -> None:
        self._place, self._credentials, self._agent = place, credentials, agent
        maker: Any = EndpointCreator
        self._http: URLLib3Session = (
            maker(None)
            .create_endpoint(
                _SERVICE,
                region_name=place.region,
                endpoint_url=place.endpoint,
                verify=verify,
                timeout=timeouts,
                max_pool_connections=MAX_CONNECTIONS,
                http_session_cls=_TlsSession if place.endpoint.startswith("https:") else URLLib3Session,
                socket_options=_SOCKET,
            )
            .http_session
        )
        self._parser: Any = create_parser("rest-xml")

    def get(self, name: str, *, wanted: str | None = None) -> Opened:
        answer, body = self._opened(name, {} if wanted is None else {"Range": wanted})
        return Opened(body, answer.headers.get("content-range", ""))

    def head(self, name: str) -> Found:
        return _found(self._answered("HeadObject", self._signed("HEAD", name, {})))

    def look(self, name: str) -> Found:
        answer, body = self._opened(name, {})
        body.close()
        return _found(answer)

    def _opened(self, name: str, headers: dict[str, str]) -> tuple[AWSResponse, StreamingBody]:
        request = self._signed("GET", name, headers)
        request.stream_output = True
        answer = self._http.send(request)
        length: Any = answer.headers.get("content-length")
        body = StreamingBody(answer.raw, length)
        if answer.status_code >= _REFUSED:
            with closing(body):
                raise self._refusal("GetObject", answer, body.read())
        return answer, body

    def put(self, name: str, body: Body, *, create_only: bool) -> None:
        self._put("PutObject", name, body, {"If-None-Match": "*"} if create_only else {})

    def put_part(self, name: str, body: Body, *, upload: str, number: int) -> str:
        target = f"{name}?uploadId={percent_encode(upload)}&partNumber={number}"
        return self._put("UploadPart", target, body, {})

    def _put(self, operation: str, target: str, body: Body, headers: dict[str, str]) -> str:
        """Send *body*; returns its ETag."""
        if body.checked:
            headers["x-amz-checksum-sha256"] = spelled(body.sha256)
        request = self._signed("PUT", target, headers, sha256=body.sha256.hex())
        request.headers["Content-Length"] = str(len(body.data))
        with closing(_blocks(body.data)) as blocks:
            request.body = body.data if isinstance(body.data, bytes) else blocks
            answer = self._answered(operation, request)
        return _said(answer, "ETag")

    def _signed(self, method: str, target: str, headers: dict[str, str], *, sha256: str = _NOTHING) -> Any:  # noqa: ANN401  # a request of botocore's, whose stubs are too narrow
        url = self._place.objects + target
        request: Any = AWSRequest(method, url, {**headers, "User-Agent": self._agent})
        if self._credentials is not None:
            request.context["sha256"] = sha256
            keys: Any = self._credentials.get_frozen_credentials()  # the stubs know no others than botocore's own
            _Signer(keys, "s3", self._place.region).add_auth(request)
        prepared: Any = AWSPreparedRequest
        return prepared(method, url, dict(request.headers.items()), None, stream_output=False)

    def _answered(self, operation: str, request: AWSPreparedRequest) -> AWSResponse:
        answer = self._http.send(request)
        # As botocore has it: what failed after a server had begun to answer is told in the body.
        if answer.status_code >= _REFUSED or b"<Error" in answer.content:
            raise self._refusal(operation, answer, answer.content)
        return answer

    def _refusal(self, operation: str, answer: AWSResponse, body: bytes) -> Exception:
        status = answer.status_code if answer.status_code >= _REFUSED else 500
        refused = self._parser.parse({"headers": answer.headers, "status_code": status, "body": body}, None)
        code = refused.get("Error", {}).get("Code")
        # To a HEAD a server says 400 and no more.
        if code in _OTHER_REGION or status in {301, 302, 307} or (operation, status) == ("HeadObject", 400):
            return Elsewhere(f"{status} {code}")
        return ClientError(refused, operation)


def _blocks(data: bytes | mmap) -> Generator[memoryview]:
    """*data* in blocks that are let go of when the iterator is closed: memory that somebody looks at cannot be given back."""
    with memoryview(data) as view:
        for at in range(0, len(view), _BLOCK):
            with view[at : at + _BLOCK] as block:
                yield block


def _said(answer: AWSResponse, header: str) -> str:
    """What an answer must say; anything else than S3 answers 200 too, such as a proxy's login page."""
    value: str | None = answer.headers.get(header)
    if value is None:
        msg = f"no {header} in the answer"
        raise ResponseParserError(msg)
    return value


def _found(answer: AWSResponse) -> Found:
    _said(answer, "ETag")
    size, modified = _said(answer, "Content-Length"), _said(answer, "Last-Modified")
    try:
        return Found(int(size), _time(modified))
    except ValueError as error:
        msg = f"no size and time in the answer: {size!r:.100}, {modified!r:.100}"
        raise ResponseParserError(msg) from error


def _time(text: str) -> float:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return parse_timestamp(text).timestamp()  # knows more ways of writing it, and takes ten times as long
