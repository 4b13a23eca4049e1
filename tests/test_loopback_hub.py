"""The loopback Hub behaves as the Hub does, as far as its clients can tell."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.model.ref import RepoType
from tests.parts.hub import TINY, WEIGHTS
from tests.parts.hub_faults import Cut, TooManyRequests, api

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
RESOLVE = "/acme/tiny/resolve/main"
TREE = "/api/models/acme/tiny/tree/main?recursive=true"


@pytest.fixture
def web() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def head(web: requests.Session, url: str, headers: Mapping[str, str] | None = None) -> requests.Response:
    return web.head(url, headers=dict(headers or {}), timeout=10)


def get(web: requests.Session, url: str, headers: Mapping[str, str] | None = None) -> requests.Response:
    return web.get(url, headers=dict(headers or {}), timeout=10)


def hf(hub: LoopbackHub, home: Path, code: str, **environment: str) -> str:
    """What *code* prints in a process of its own with huggingface_hub set to *hub*."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SNAPSHOT = """
import huggingface_hub, pathlib, sys
folder = pathlib.Path(huggingface_hub.snapshot_download("acme/tiny", revision="{revision}", repo_type="{type}"))
print(huggingface_hub.__version__, folder)
"""


def test_an_unmodified_huggingface_hub_downloads_a_snapshot_and_every_byte_is_right(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    version, folder = hf(hub, tmp_path, SNAPSHOT.format(revision="main", type="model")).split()
    assert version == "2.4.0"
    repository = f"{tmp_path}/hub/models--acme--tiny/snapshots/"
    assert folder.startswith(repository)
    for path, content in TINY.items():
        assert (Path(folder) / path).read_bytes() == content, path
    assert hub.requests(server="cdn", method="GET"), "LFS files come from the CDN"


def test_huggingface_hub_follows_pages_the_detour_of_small_files_and_a_prefix(tmp_path: Path) -> None:
    with LoopbackHub(page_size=2, prefix="/a/hf", resolve_cache=True) as hub:
        hub.add_repo("acme/tiny", {"main": TINY}, type=RepoType.DATASET)
        _, folder = hf(hub, tmp_path, SNAPSHOT.format(revision="main", type="dataset")).split()
        assert (Path(folder) / "config.json").read_bytes() == TINY["config.json"]
        assert len(hub.requests(within="/tree/")) == 4
        assert hub.requests(within="/api/resolve-cache/datasets/acme/tiny/")


def test_huggingface_hub_finds_refs_paths_and_identity(hub: LoopbackHub, tmp_path: Path) -> None:
    repository = hub.add_repo("acme/tiny", {"main": TINY})
    repository.tags["v1.0"] = repository.branches["main"]
    repository.commit({"config.json": b"{}"}, branch="feature/x")
    code = """
import huggingface_hub
api = huggingface_hub.HfApi(token="hf_reader")
refs = api.list_repo_refs("acme/tiny")
paths = api.get_paths_info("acme/tiny", ["onnx", "model.safetensors", "nope"], revision="v1.0")
commits = api.list_repo_commits("acme/tiny", revision="feature/x")
print(api.whoami()["name"], [b.name for b in refs.branches], [t.name for t in refs.tags], sorted(p.path for p in paths), len(commits))
print(sorted(api.list_repo_files("acme/tiny", revision="feature/x")), api.file_exists("acme/tiny", "nope"))
"""
    who, what = hf(hub, tmp_path, code).splitlines()
    assert who == "reader ['feature/x', 'main'] ['v1.0'] ['model.safetensors', 'onnx'] 2"
    assert what == "['config.json'] False"


def test_hf_cache_verify_agrees_with_the_object_names(hub: LoopbackHub, tmp_path: Path) -> None:
    code = SNAPSHOT.format(revision="main", type="model") + (
        'result = huggingface_hub.HfApi().verify_repo_checksums("acme/tiny")\n'
        "print(result.checked_count, result.mismatches, result.missing_paths)\n"
    )
    assert hf(hub, tmp_path, code).splitlines()[-1] == f"{len(TINY)} [] []"


def test_object_names_are_those_of_git(hub: LoopbackHub, web: requests.Session, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = {"GIT_AUTHOR_DATE": "1735689600 +0000", "GIT_COMMITTER_DATE": "1735689600 +0000"}
        who = ["-c", "user.name=Loopback Hub", "-c", "user.email=hub@localhost"]
        command = ["git", *who, "-C", str(tmp_path), *arguments]
        environment = {**os.environ, **identity}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    for path in ("a/b/c.txt", "a-b.txt", "z/é.txt"):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path)
    repository = hub.add_repo("acme/plain", {"main": tmp_path})
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "Commit 1")
    assert git("rev-parse", "HEAD") == repository.branches["main"]
    tree = get(web, f"{hub.url}/api/models/acme/plain/tree/main?recursive=true").json()
    assert {entry["path"]: entry["oid"] for entry in tree} == {
        path: git("rev-parse", f"HEAD:{path}") for path in ("a", "a-b.txt", "a/b", "a/b/c.txt", "z", "z/é.txt")
    }


def test_commits_depend_on_content_and_history_alone() -> None:
    with LoopbackHub() as one, LoopbackHub() as other:
        first, second = (hub.add_repo("acme/tiny", {"main": TINY}) for hub in (one, other))
        assert first.branches == second.branches
        assert first.commit({"a": b"1"}) == second.commit({"a": b"1"})
        assert first.commit({"a": b"1"}) != second.branches["main"], "history counts"


def test_head_of_an_lfs_file_redirects_to_another_host_name_with_all_that_a_client_needs(
    hub: LoopbackHub, web: requests.Session
) -> None:
    answer = head(web, f"{hub.url}{RESOLVE}/model.safetensors")
    assert answer.status_code == 302
    assert answer.headers["X-Linked-Etag"] == f'"{SHA256}"'
    assert answer.headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert answer.headers["X-Repo-Commit"] == hub.add_repo("acme/tiny", {"main": TINY}).branches["main"]
    assert urllib.parse.urlsplit(answer.headers["Location"]).hostname == "localhost"
    assert urllib.parse.urlsplit(hub.url).hostname == "127.0.0.1"


def test_head_and_get_of_a_small_file_carry_the_same_headers(hub: LoopbackHub, web: requests.Session) -> None:
    answers = [method(web, f"{hub.url}{RESOLVE}/config.json") for method in (head, get)]
    for name in ("ETag", "Content-Length", "X-Repo-Commit", "Accept-Ranges"):
        assert answers[0].headers[name] == answers[1].headers[name]
    content = TINY["config.json"]
    assert answers[0].headers["ETag"] == f'"{hashlib.sha1(b"blob %d" % len(content) + bytes(1) + content).hexdigest()}"'
    assert (answers[0].content, answers[1].content) == (b"", content)


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "body"),
    [
        ("bytes=0-0", 206, "bytes 0-0/307200", WEIGHTS[:1]),
        ("bytes=307190-", 206, "bytes 307190-307199/307200", WEIGHTS[-10:]),
        ("bytes=-5", 206, "bytes 307195-307199/307200", WEIGHTS[-5:]),
        ("bytes=10-999999", 206, "bytes 10-307199/307200", WEIGHTS[10:]),
        ("bytes=5-7", 206, "bytes 5-7/307200", WEIGHTS[5:8]),
        ("bytes=307200-", 416, "bytes */307200", None),
        ("bytes=1-2,4-5", 200, None, WEIGHTS),
        ("lines=1-2", 200, None, WEIGHTS),
    ],
)
def test_ranges_are_answered_as_rfc_9110_says(
    web: requests.Session, asked: str, status: int, content_range: str | None, body: bytes | None
) -> None:
    with LoopbackHub(cdn=False) as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        answer = get(web, f"{hub.url}{RESOLVE}/model.safetensors", {"Range": asked})
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    assert body is None or answer.content == body


def test_the_cdn_refuses_a_token_a_wrong_signature_and_head(hub: LoopbackHub, web: requests.Session) -> None:
    location = head(web, f"{hub.url}{RESOLVE}/model.safetensors").headers["Location"]
    assert get(web, location).content == WEIGHTS
    assert get(web, location, bearer("hf_reader")).status_code == 400
    assert get(web, f"{location}0").status_code == 403
    assert head(web, location).status_code == 403


def test_an_unchanged_file_is_304(hub: LoopbackHub, web: requests.Session) -> None:
    etag = get(web, f"{hub.url}{RESOLVE}/config.json").headers["ETag"]
    answer = get(web, f"{hub.url}{RESOLVE}/config.json", {"If-None-Match": f"W/{etag}"})
    assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize(
    ("target", "token", "status", "code"),
    [
        (f"{RESOLVE}/nope", None, 404, "EntryNotFound"),
        ("/acme/tiny/resolve/nope/config.json", None, 404, "RevisionNotFound"),
        ("/api/models/acme/tiny/tree/main/nope", None, 404, "EntryNotFound"),
        ("/api/models/acme/tiny/revision/" + "0" * 40, None, 404, "RevisionNotFound"),
        ("/api/models/acme/nope", None, 401, "RepoNotFound"),
        ("/api/models/acme/nope", "hf_reader", 404, "RepoNotFound"),
        ("/api/models/acme/tiny", "hf_wrong", 401, None),
        ("/api/models/acme/private", None, 401, "RepoNotFound"),
        ("/api/models/acme/private", "hf_other", 404, "RepoNotFound"),
        ("/api/models/acme/private", "hf_reader", 200, None),
        ("/api/models/acme/gated/tree/main", None, 200, None),
        ("/acme/gated/resolve/main/config.json", None, 401, "GatedRepo"),
        ("/acme/gated/resolve/main/config.json", "hf_other", 403, "GatedRepo"),
        ("/acme/gated/resolve/main/config.json", "hf_reader", 200, None),
        ("/api/datasets/acme/tiny", None, 401, "RepoNotFound"),
        ("/api/models/gpt2", None, 200, None),
        ("/gpt2/resolve/main/config.json", None, 200, None),
        ("/api/models/acme/tiny/xet-read-token/main", None, 404, None),
        ("//api/models/acme/tiny", None, 200, None),
    ],
)
def test_status_and_error_code_are_those_of_the_hub(
    hub: LoopbackHub, web: requests.Session, target: str, token: str | None, status: int, code: str | None
) -> None:
    files = {"config.json": b"{}"}
    hub.add_repo("acme/private", {"main": files}, private=True, readers=["reader"])
    hub.add_repo("acme/gated", {"main": files}, gated=True, readers=["reader"])
    hub.add_repo("gpt2", {"main": files})
    for ask in (get, head):
        answer = ask(web, hub.url + target, bearer(token) if token else {})
        assert (answer.status_code, answer.headers.get("X-Error-Code")) == (status, code)


def test_a_slash_in_a_branch_is_no_separator_when_it_is_encoded(hub: LoopbackHub, web: requests.Session) -> None:
    repository = hub.add_repo("acme/tiny", {"feature/x": {"a.txt": b"branch"}})
    info = get(web, f"{hub.url}/api/models/acme/tiny/revision/feature%2Fx").json()
    assert info["sha"] == repository.branches["feature/x"]
    assert get(web, f"{hub.url}/acme/tiny/resolve/feature%2Fx/a.txt").content == b"branch"


def test_a_renamed_repository_redirects(hub: LoopbackHub, web: requests.Session) -> None:
    hub.rename("old/name", "acme/tiny")
    assert get(web, f"{hub.url}/api/models/old/name").json()["id"] == "acme/tiny"
    assert get(web, f"{hub.url}/old/name/resolve/main/config.json").content == TINY["config.json"]


def test_pages_of_the_tree_join_to_the_whole_and_link_to_this_hub(web: requests.Session) -> None:
    with LoopbackHub(page_size=3, prefix="/deep/down") as hub:
        hub.add_repo("acme/tiny", {"main": TINY})
        url, entries = f"{hub.url}{TREE}", []
        while url:
            answer = get(web, url)
            assert len(answer.json()) <= 3
            entries += answer.json()
            url = answer.links.get("next", {}).get("url", "")
            assert url == "" or url.startswith(f"{hub.url}/api/")
    assert {entry["path"] for entry in entries if entry["type"] == "file"} == set(TINY)
    weights = next(entry for entry in entries if entry["path"] == "model.safetensors")
    assert weights["lfs"] == {"oid": SHA256, "size": len(WEIGHTS), "pointerSize": 131}


def test_a_tree_that_is_not_recursive_lists_one_level(hub: LoopbackHub, web: requests.Session) -> None:
    tree = get(web, f"{hub.url}/api/models/acme/tiny/tree/main?recursive=False").json()
    assert {entry["path"] for entry in tree} == {path.partition("/")[0] for path in TINY}
    below = get(web, f"{hub.url}/api/models/acme/tiny/tree/main/onnx").json()
    assert {entry["path"] for entry in below} == {path for path in TINY if path.startswith("onnx/")}


def test_paths_info_takes_json_too(hub: LoopbackHub, web: requests.Session) -> None:
    url = f"{hub.url}/api/models/acme/tiny/paths-info/main"
    found = web.post(url, json={"paths": ["config.json", "nope"], "expand": True}, timeout=10).json()
    assert [entry["path"] for entry in found] == ["config.json"]


def test_files_can_be_a_folder_and_are_streamed_from_it(web: requests.Session, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.bin").write_bytes(WEIGHTS)
    with LoopbackHub(cdn=False) as hub:
        hub.add_repo("acme/disk", {"main": tmp_path})
        url = f"{hub.url}/acme/disk/resolve/main/sub/model.bin"
        assert get(web, url).content == WEIGHTS
        assert get(web, url, {"Range": "bytes=300000-300009"}).content == WEIGHTS[300000:300010]


def test_every_request_is_seen_with_status_bytes_and_whether_a_token_was_there(
    hub: LoopbackHub, web: requests.Session
) -> None:
    get(web, f"{hub.url}{RESOLVE}/config.json", {**bearer("hf_reader"), "Range": "bytes=2-"})
    get(web, f"{hub.url}{RESOLVE}/nope")
    first, second = hub.requests()
    assert (first.server, first.method, first.target) == ("hub", "GET", f"{RESOLVE}/config.json")
    assert (first.status, first.authorized, first.range) == (206, True, "bytes=2-")
    assert (second.status, second.authorized) == (404, False)
    assert hub.sent == first.sent == len(TINY["config.json"]) - 2
    hub.forget()
    assert hub.requests() == []


def test_connections_are_kept_alive(hub: LoopbackHub) -> None:
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=10)
    connection.connect()
    # Without it http.client opens a new connection in silence when the server closed the old one.
    connection.auto_open = 0
    for target in ("/config.json", "/nope", "/empty.txt", "/model.safetensors"):
        connection.request("GET", RESOLVE + target)
        connection.getresponse().read()
    connection.close()


def test_faults_happen_as_often_as_planned_and_each_hub_has_its_own(hub: LoopbackHub, web: requests.Session) -> None:
    hub.faults += [TooManyRequests(retry_after="7", when=api, times=1), Cut(after=100, times=1)]
    with LoopbackHub() as other:
        other.add_repo("acme/tiny", {"main": TINY})
        assert get(web, other.url + TREE).status_code == 200
    refused = get(web, hub.url + TREE)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert get(web, hub.url + TREE).status_code == 200
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="100 bytes read"):
        get(web, f"{hub.url}{RESOLVE}/model.safetensors")
    assert get(web, f"{hub.url}{RESOLVE}/model.safetensors").content == WEIGHTS


def test_the_hub_is_reached_on_loopback_only_and_is_gone_after_the_block(web: requests.Session) -> None:
    with LoopbackHub() as hub:
        assert hub.url.startswith("http://127.0.0.1:")
    with pytest.raises(requests.exceptions.ConnectionError):
        get(web, hub.url)


def test_json_names_no_xet(hub: LoopbackHub, web: requests.Session) -> None:
    for target in (TREE, "/api/models/acme/tiny?blobs=true"):
        assert "xet" not in json.dumps(get(web, hub.url + target).json()).lower()
