"""
The only module that answers as the Hub does: the read side of its HTTP API.

Shapes, headers and status codes are those that `huggingface_hub` 0.20 to 2.4, hf-hub for Rust and
llama.cpp read. Xet is not offered: plain HTTP is what every client can.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote

from attrs import define, evolve, field

from ci_modelcache.demo.exchange import CDN, Refusal, Reply, Request, as_json, error, plain, redirect, send_file
from ci_modelcache.demo.repository import Commit, Repository, StoredFile, folders
from ci_modelcache.model.ref import RepoType

if TYPE_CHECKING:
    from collections.abc import Iterable

_KINDS = {"models": RepoType.MODEL, "datasets": RepoType.DATASET, "spaces": RepoType.SPACE}
_FOLDERS = {"datasets": RepoType.DATASET, "spaces": RepoType.SPACE}
_DATE = "2025-01-01T00:00:00.000Z"
_VERBS = {"revision", "tree", "refs", "paths-info", "commits", "auth-check", "xet-read-token", "discussions"}


@define
class Routes:
    """What the Hub holds and how it is set up; `answer` is the whole of it."""

    url: str = ""
    """Own address with prefix, for links."""
    prefix: str = ""
    cdn_url: str | None = None
    """Where LFS files are redirected to; None: they are sent directly."""
    resolve_cache: bool = False
    """Whether small files of public repositories take the detour (a relative 307) that the real Hub sends them on."""
    page_size: int = 1000
    tokens: dict[str, str] = field(factory=dict)
    """Token to user name."""
    repositories: dict[tuple[RepoType, str], Repository] = field(factory=dict)
    renamed: dict[str, str] = field(factory=dict)

    def answer(self, request: Request) -> Reply:
        """The reply to *request*."""
        try:
            return self._from_cdn(request) if request.server == CDN else self._from_hub(request)
        except Refusal as refusal:
            return refusal.reply

    def _from_hub(self, request: Request) -> Reply:
        segments = request.segments
        prefix = [part for part in self.prefix.split("/") if part]
        if segments[: len(prefix)] != prefix:
            raise Refusal(_NO_PAGE)
        segments = segments[len(prefix) :]
        user = self._user(request)
        if segments[0] == "api":
            return self._api(request, segments[1:], user)
        return self._resolve(request, segments, user)

    def _user(self, request: Request) -> str | None:
        """The user whose token came with *request*, None without a token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        if token not in self.tokens:
            raise Refusal(error(401, None, "Invalid credentials in Authorization header"))
        return self.tokens[token]

    def _api(self, request: Request, segments: list[str], user: str | None) -> Reply:
        if segments[0] in _KINDS:
            return self._of_repository(request, segments, user)
        if segments[0] == "resolve-cache" and len(segments) > 4:  # noqa: PLR2004  # kind, two of name, commit, path
            kind = [] if segments[1] == "models" else [segments[1]]
            return self._resolve(request, [*kind, *segments[2:4], "resolve", *segments[4:]], user)
        if segments == ["whoami-v2"]:
            return _whoami(user)
        if segments == ["agent-harnesses"]:
            return as_json({"standardEnvVars": [], "harnesses": {}})
        raise Refusal(_NO_PAGE)

    def _of_repository(self, request: Request, segments: list[str], user: str | None) -> Reply:
        name, rest = _split_name(segments[1:], _VERBS)
        repository = self._find(request, _KINDS[segments[0]], name, user)
        verb = rest[0] if rest else "revision"
        if verb == "refs":
            return _refs(repository)
        if verb == "auth-check":
            return as_json({})
        if verb not in {"revision", "tree", "paths-info", "commits"}:
            raise Refusal(error(404, None, f"{verb} is not offered here"))
        commit = _commit(repository, rest[1] if len(rest) > 1 else "main")
        if verb == "tree":
            return self._tree(request, repository, commit, "/".join(rest[2:]))
        of_commit = {"revision": _info, "paths-info": _paths_info, "commits": _commits}
        return of_commit[verb](request, repository, commit)

    def _find(self, request: Request, kind: RepoType, name: str, user: str | None) -> Repository:
        """The repository; without a token the Hub does not tell missing from private."""
        if name in self.renamed:
            raise Refusal(redirect(307, request.target.replace(f"/{name}", f"/{self.renamed[name]}", 1)))
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and user not in repository.readers):
            status, said = (401, "Invalid username or password.") if user is None else (404, "Repository not found")
            raise Refusal(error(status, "RepoNotFound", said))
        if repository.disabled:
            raise Refusal(error(403, None, "Access to this resource is disabled."))
        return repository

    def _tree(self, request: Request, repository: Repository, commit: Commit, below: str) -> Reply:
        within = f"{below}/" if below else ""
        entries = [entry for entry in _entries(commit) if str(entry["path"]).startswith(within)]
        if below and not entries:
            raise Refusal(error(404, "EntryNotFound", f"{below} does not exist", {"X-Repo-Commit": commit.oid}))
        recursive = request.query.get("recursive", "false")
        if recursive.lower() != "true":
            entries = [entry for entry in entries if "/" not in str(entry["path"]).removeprefix(within)]
        first = int(request.query.get("cursor", "0"))
        following = first + self.page_size
        headers = {}
        if following < len(entries):
            kind = next(kind for kind, type_ in _KINDS.items() if type_ is repository.type)
            place = f"{self.url}/api/{kind}/{repository.name}/tree/{commit.oid}"
            place += f"/{quote(below, safe='')}" if below else ""
            headers["Link"] = f'<{place}?recursive={recursive}&cursor={following}>; rel="next"'
        return as_json(entries[first:following], headers)

    def _resolve(self, request: Request, segments: list[str], user: str | None) -> Reply:
        kind = _FOLDERS.get(segments[0], RepoType.MODEL)
        name, rest = _split_name(segments[segments[0] in _FOLDERS :], {"resolve"})
        if len(rest) < 3 or rest[0] != "resolve":  # noqa: PLR2004  # the word, a revision, a path
            raise Refusal(_NO_PAGE)
        repository = self._find(request, kind, name, user)
        if repository.gated and user not in repository.readers:
            status = 401 if user is None else 403
            raise Refusal(error(status, "GatedRepo", f"Access to {kind} {name} is restricted. Accept its conditions."))
        commit, path = _commit(repository, rest[1]), "/".join(rest[2:])
        known = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise Refusal(error(404, "EntryNotFound", f"{path} does not exist on {rest[1]}", known))
        return self._send(request, repository, commit.files[path], known)

    def _send(self, request: Request, repository: Repository, file: StoredFile, known: dict[str, str]) -> Reply:
        detour = self.resolve_cache and not (
            repository.private or repository.gated or "/resolve-cache/" in request.target
        )
        if file.lfs:
            known |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.etag}"'}
            if self.cdn_url is not None:
                location = f"{self.cdn_url}/cdn/{file.sha256}?X-Amz-Credential=demo&X-Amz-Signature={signature(file)}"
                return redirect(302, location, {**known, "Accept-Ranges": "bytes"})
        elif detour and file.size and "/" in repository.name:
            place = f"{self.prefix}/api/resolve-cache/{repository.type}s/{repository.name}/{known['X-Repo-Commit']}/{quote(file.path)}"
            return redirect(307, f"{place}?etag=%22{file.etag}%22", {**known, "ETag": f'"{file.etag}"'})
        return send_file(request, file, known)

    def _from_cdn(self, request: Request) -> Reply:
        if "Authorization" in request.headers:
            # As S3 answers to a presigned URL that comes with a token: a client that leaks it fails here.
            raise Refusal(plain(400, b"<Error><Code>InvalidArgument</Code></Error>", "application/xml"))
        commits = (commit for repository in self.repositories.values() for commit in repository.commits.values())
        files = (file for commit in commits for file in commit.files.values())
        file = next((file for file in files if request.segments == ["cdn", file.sha256.hex]), None)
        if file is None or request.query.get("X-Amz-Signature") != signature(file) or request.method == "HEAD":
            raise Refusal(plain(403, b"<Error><Code>AccessDenied</Code></Error>", "application/xml"))
        return send_file(request, file, {})


_NO_PAGE = error(404, None, "Sorry, we can't find the page you are looking for.")


def _commit(repository: Repository, revision: str) -> Commit:
    commit = repository.find(revision)
    if commit is None:
        raise Refusal(error(404, "RevisionNotFound", f"Invalid rev id: {revision}"))
    return commit


def signature(file: StoredFile) -> str:
    """What makes a CDN link valid: it cannot be guessed from the digest alone."""
    return hashlib.sha256(b"loopback cdn " + file.sha256.hex.encode()).hexdigest()


def _split_name(segments: list[str], verbs: Iterable[str]) -> tuple[str, list[str]]:
    """``name`` or ``org/name``, and what follows."""
    length = 1 if len(segments) > 1 and segments[1] in verbs else 2
    return "/".join(segments[:length]), segments[length:]


def _whoami(user: str | None) -> Reply:
    if user is None:
        return error(401, None, "Invalid username or password.")
    return as_json({"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}})


def _refs(repository: Repository) -> Reply:
    def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in sorted(names.items())
        ]

    return as_json(
        {"branches": listed(repository.branches, "heads"), "converts": [], "tags": listed(repository.tags, "tags")}
    )


def _info(request: Request, repository: Repository, commit: Commit) -> Reply:
    siblings: list[dict[str, object]] = [{"rfilename": path} for path in commit.files]
    if request.query.get("blobs", "").lower() == "true":
        siblings = [_sibling(file) for file in commit.files.values()]
    named = {"_id": commit.oid[:24], "id": repository.name, "sha": commit.oid}
    named |= {"lastModified": _DATE, "createdAt": _DATE}
    access = {"private": repository.private, "gated": "auto" if repository.gated else False, "disabled": False}
    info = as_json({**named, **access, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings})
    return _unless_known(request, info)


def _unless_known(request: Request, reply: Reply) -> Reply:
    """*reply* with the weak ETag that the Hub's framework makes (length and SHA-1 of the body); or 304 to one who has it."""
    body = b"".join(reply.body())
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    etag = f'W/"{len(body):x}-{base64.b64encode(digest)[:27].decode()}"'
    if request.headers.get("If-None-Match") == etag:
        return Reply(304, {"ETag": etag, "Content-Length": "0"}, lambda: iter(()))
    return evolve(reply, headers={**reply.headers, "ETag": etag})


def _commits(_request: Request, repository: Repository, commit: Commit) -> Reply:
    history = [each for each in repository.commits.values() if each.position <= commit.position]
    return as_json(
        [
            {"id": each.oid, "title": each.message, "message": "", "date": _DATE, "authors": []}
            for each in reversed(history)
        ]
    )


def _sibling(file: StoredFile) -> dict[str, object]:
    lfs = (
        {"lfs": {"sha256": file.sha256.hex, "size": file.size, "pointerSize": _pointer_size(file)}} if file.lfs else {}
    )
    return {"rfilename": file.path, "size": file.size, "blobId": file.oid, **lfs}


def _entries(commit: Commit) -> list[dict[str, object]]:
    inner = folders(commit.files).items()
    found: list[dict[str, object]] = [{"type": "directory", "oid": oid, "size": 0, "path": path} for path, oid in inner]
    return sorted(found + [_entry(file) for file in commit.files.values()], key=lambda entry: str(entry["path"]))


def _entry(file: StoredFile) -> dict[str, object]:
    lfs = {"lfs": {"oid": file.sha256.hex, "size": file.size, "pointerSize": _pointer_size(file)}} if file.lfs else {}
    return {"type": "file", "oid": file.oid, "size": file.size, "path": file.path, **lfs}


def _pointer_size(file: StoredFile) -> int:
    return len(f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n")


def _paths_info(request: Request, _repository: Repository, commit: Commit) -> Reply:
    """Python sends a form, huggingface.js JSON; what does not exist is left out of the answer."""
    if request.headers.get("Content-Type", "").startswith("application/json"):
        wanted = json.loads(request.body)["paths"]
    else:
        wanted = parse_qs(request.body.decode()).get("paths", [])
    return as_json([entry for entry in _entries(commit) if entry["path"] in wanted])
