"""
A stand-in for ModelScope on loopback, after what its own client reads (`modelscope_hub` 0.5.1) and what was seen of it.

Three habits are its own: the listing of a model ends after 3,000 entries without saying so, a part of an LFS file comes with
``Content-Range`` and status 200 (modelscope/modelscope_hub#50), and ranges of other files are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, evolve, field

from ci_modelcache.demo.exchange import CDN, Reply, Request, as_json, redirect, send_file
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.demo.repository import StoredFile
from ci_modelcache.demo.routes import Routes, signature
from tests.parts.hub_faults import with_range

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = 3000


def envelope(code: int, message: str, *, status: int = 200, data: object = None) -> Reply:
    """An answer as ModelScope wraps it."""
    return as_json(
        {"Code": code, "Data": data, "Message": message, "RequestId": "0000-1111", "Success": code == 200},
        status=status,
    )


@define
class _Api(Routes):
    held: dict[tuple[str, str], dict[str, StoredFile]] = field(factory=dict)
    secret: str | None = None

    def answer(self, request: Request) -> Reply:
        if request.server == CDN:
            return self._from_storage(request)
        if self.secret is not None and request.headers.get("Authorization") != f"Bearer {self.secret}":
            return envelope(10010101, "permission denied", status=403)
        kind, owner, name, *rest = request.segments[2:]
        files = self.held.get((kind, f"{owner}/{name}"))
        if files is None or request.query.get("Revision") != "master":
            return envelope(10010205001, "获取模型信息失败,信息不存在", status=404)
        if rest == ["repo", "files" if kind == "models" else "tree"]:
            return self._listing(request, kind, files)
        return self._file(request, files.get(request.query["FilePath"]))

    def _listing(self, request: Request, kind: str, files: dict[str, StoredFile]) -> Reply:
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries = [{"Name": path, "Path": path, "Size": 0, "Type": "tree", "Sha256": ""} for path in folders]
        entries += [
            {
                "Name": path.rpartition("/")[2],
                "Path": path,
                "Size": file.size,
                "Type": "blob",
                "IsLFS": file.lfs,
                "Mode": "33188",
                "Revision": "0" * 40,
                "Sha256": file.sha256.hex.upper(),
            }
            for path, file in files.items()
        ]
        root = request.query.get("Root", "")
        if request.query["Recursive"] != "True":
            entries = [entry for entry in entries if str(entry["Path"]).rpartition("/")[0] == root]
        if kind == "datasets":
            size = int(request.query["PageSize"])
            first = (int(request.query["PageNumber"]) - 1) * size
            entries = entries[first : first + size]
        return envelope(200, "success", data={"Files": entries[:LIMIT], "IsVisual": 0})

    def _file(self, request: Request, file: StoredFile | None) -> Reply:
        if file is None:
            return envelope(10010204001, "the file is not found", status=404)
        if file.lfs:
            return redirect(302, f"{self.cdn_url}/lfs/{file.sha256}?Expires=9999999999&Signature={signature(file)}")
        # Its own ETag is none of the Hub's.
        return send_file(with_range(request, None), file, {"ETag": f'"{file.sha256}"'})

    def _from_storage(self, request: Request) -> Reply:
        assert "Authorization" not in request.headers
        file = next(
            file for files in self.held.values() for file in files.values() if file.sha256.hex in request.target
        )
        reply = send_file(request, file, {"X-Linked-ETag": f'"{file.sha256}"', "ETag": '"0123456789abcdef-5"'})
        return evolve(reply, status=200) if reply.status == 206 else reply


class LoopbackModelScope(LoopbackHub):
    """ModelScope while the ``with`` block runs; *token* is asked for when given. Faults and the log are those of `LoopbackHub`."""

    def __init__(self, *, token: str | None = None) -> None:
        super().__init__()
        self._api = _Api(url=self._routes.url, cdn_url=self._routes.cdn_url, secret=token)
        self._routes = self._api

    def put(self, repo: str, files: Mapping[str, bytes], *, kind: str = "models") -> None:
        """Make *files* the master of *repo*."""
        self._api.held[kind, repo] = {path: StoredFile.of(path, data) for path, data in files.items()}
