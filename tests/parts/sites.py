"""A folder as a web server serves it, on loopback: with ranges and faults, as nginx does, and as ``python -m http.server`` does."""

from __future__ import annotations

import mimetypes
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from attrs import define

from ci_modelcache.demo.exchange import Reply, Request, plain, send_file
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.repository import StoredFile
from ci_modelcache.demo.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@define
class _Folder(Routes):
    folder: Path | None = None
    secret: str | None = None

    def answer(self, request: Request) -> Reply:
        if self.secret is not None and request.headers.get("Authorization") != f"Bearer {self.secret}":
            return plain(401, b"<html>401 Authorization Required</html>", "text/html")
        assert self.folder is not None
        path = self.folder.joinpath(*request.segments)
        if not path.is_file():
            return plain(404, b"<html>404 Not Found</html>", "text/html")
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        tag = f'"{int(path.stat().st_mtime):x}-{path.stat().st_size:x}"'
        return send_file(request, StoredFile.of(path.name, path), {"ETag": tag, "Content-Type": kind})


class FolderSite(LoopbackHub):
    """*folder* while the ``with`` block runs; *token* is asked for when given. Faults and the log are those of `LoopbackHub`."""

    def __init__(self, folder: Path, *, token: str | None = None) -> None:
        super().__init__(cdn=False)
        self._routes = _Folder(url=self._routes.url, folder=folder, secret=token)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


@contextmanager
def plain_http_server(folder: Path) -> Iterator[str]:
    """The address of what ``python -m http.server -d FOLDER`` runs: a server that knows no ranges."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
