"""The policies of examples/policies let each job do what it needs and nothing else: compared with what the code sends, and tried."""

from __future__ import annotations

import itertools
import json
import os
import shlex
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen
from botocore.exceptions import ClientError

from ci_modelcache.cli.main import main
from ci_modelcache.errors import AccessDenied
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_bucket import Bucket
from ci_modelcache.stores.s3_role import AssumedRole
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import MIB, breaking, content, get, keys, put
from tests.parts.documents import ROOT
from tests.parts.policies import (
    FOLDER,
    MAIN,
    MERGE_REQUEST,
    PROTECTED,
    PUBLIC,
    PULL_REQUEST,
    RoleStore,
    actions,
    admin,
    allows,
    arn,
    example,
    grants,
    with_roles,
)
from tests.parts.servers import ADMIN, BUCKET, REGION, login
from tests.parts.verbs import write_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from tests.parts.servers import S3Server

DOCUMENT = (ROOT / "docs" / "permissions.md").read_text()
ACTION = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
}
"""The action that AWS asks for, by operation (Service Authorization Reference, Amazon S3)."""
_stores = map("store-{}".format, itertools.count())


@frozen
class Sent:
    """A request: the action it needs, and on what."""

    action: str
    resource: str


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """What every store sends from now on."""
    seen: list[Sent] = []
    new_client = Bucket._new_client

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        path = params["context"]["input_params"]
        bucket = f"arn:aws:s3:::{path['Bucket']}"
        seen.append(Sent(ACTION[model.name], f"{bucket}/{path['Key']}" if "Key" in path else bucket))

    def noting(self: Bucket, seconds: float, **options: Any) -> Any:
        client = new_client(self, seconds, **options)
        client.meta.events.register("provide-client-params.s3", _remember)
        client.meta.events.register("before-call.s3", note)
        return client

    def _remember(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["input_params"] = params

    monkeypatch.setattr(Bucket, "_new_client", noting)
    # All of it by clients: without them the same is sent, as tests/test_wire.py shows.
    monkeypatch.setattr(Bucket, "_light", lambda _: None)
    return seen


@pytest.fixture
def run(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """A command line and *environ*: its exit code, and what it said on stderr. The Hub has a model that takes several parts."""
    monkeypatch.chdir(tmp_path)
    hub.add_repo("acme/large", {"main": {"model.bin": os.urandom(17 * MIB), "config.json": b"{}"}})

    def run(line: str, **environ: str) -> tuple[int, str]:
        usual = {
            "CI_MODELCACHE_STATE": str(tmp_path / "state"),
            "CI_MODELCACHE_REGION": REGION,
            "HF_ENDPOINT": hub.url,
        }
        for name, value in {**usual, **environ}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(shlex.split(line))
        return code, capsys.readouterr().err

    return run


FILLING = (
    "fetch acme/large",
    "save saved acme/saved@v1",
    "restore acme/tiny --to filled",
    "doctor",
)
READING = (
    "restore acme/large --to restored --mode read --offline",
    "restore acme/absent@0123456789abcdef0123456789abcdef01234567 --to absent --mode read --offline",
    "ls",
    "verify",
)


def unused(policy: Any, sent: set[Sent]) -> list[tuple[str, str]]:
    """What *policy* grants and nobody needed."""
    return [
        (action, pattern)
        for action, pattern in grants(policy)
        if not any(each.action == action and fnmatchcase(each.resource, pattern) for each in sent)
    ]


# --- compared with what the code sends


def test_the_policies_grant_what_the_commands_send_and_nothing_more(
    run: Callable[..., tuple[int, str]],
    sent: list[Sent],
    seaweedfs_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    login(monkeypatch)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").write_text("{}")
    client = admin(seaweedfs_server)
    bucket = next(_stores)
    client.create_bucket(Bucket=bucket)
    where = {"CI_MODELCACHE_STORE": f"s3://{bucket}", "CI_MODELCACHE_ENDPOINT_URL": seaweedfs_server.endpoint}
    reader = json.loads(json.dumps(example("reader.json")).replace(BUCKET, bucket))
    writer = json.loads(json.dumps(example("writer.json")).replace(BUCKET, bucket))
    for line in FILLING:
        code, said = run(line, **where)
        assert code == 0, said
    store = S3Store(bucket, endpoint_url=seaweedfs_server.endpoint, region=REGION, retry=RetryPolicy(attempts=1))
    with pytest.raises(RuntimeError):
        store.write("blobs/broken", breaking([content(17 * MIB)], RuntimeError()), size=18 * MIB)
    filling = set(sent)
    sent.clear()
    for line in READING:
        code, said = run(line, **where)
        assert code in {0, 10}, said
    reading = set(sent)
    assert [each for each in filling | reading if not allows(writer, each.action, each.resource)] == []
    assert [each for each in reading if not allows(reader, each.action, each.resource)] == []
    assert unused(writer, filling | reading) == []
    assert unused(reader, reading) == []


def test_the_policy_of_the_pruner_grants_what_its_commands_send_and_nothing_more(
    run: Callable[..., tuple[int, str]],
    sent: list[Sent],
    seaweedfs_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    login(monkeypatch)
    bucket = next(_stores)
    admin(seaweedfs_server).create_bucket(Bucket=bucket)
    where = {"CI_MODELCACHE_STORE": f"s3://{bucket}", "CI_MODELCACHE_ENDPOINT_URL": seaweedfs_server.endpoint}
    for number in (1, 2):
        write_files(tmp_path / "saved", {"config.json": b"%d" % number})
        assert run(f"save saved acme/saved@v{number}", **where)[0] == 0
    sent.clear()
    for line in ("prune --keep-last 1 --min-age 0s", "du", "pin", "undelete"):
        assert run(line, **where)[0] == 0
    looking = set(sent)
    for line in (
        "pin acme/saved@v2",
        "prune --max-size 1B --min-age 0s --max-share 100% --yes",
        "undelete acme/saved@v1",
        "unpin acme/saved@v2",
    ):
        code, said = run(line, **where)
        assert code == 0, said
    reader, pruner = (
        json.loads(json.dumps(example(name)).replace(BUCKET, bucket)) for name in ("reader.json", "pruner.json")
    )
    assert [each for each in looking if not allows(reader, each.action, each.resource)] == []
    assert [each for each in sent if not allows(pruner, each.action, each.resource)] == []
    assert unused(pruner, set(sent)) == []


def test_only_own_notes_may_be_deleted() -> None:
    writer = example("writer.json")
    for key in ("blobs/sha256/ab/cd/x", "refs/v1/x.json", "manifests/sha256/ab/x", "modelcache.json", "pins/x"):
        assert not allows(writer, "s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/{key}")
    for key in ("intents/x.1.json", "leases/v1/x.json", "probe/x/deleted"):
        assert allows(writer, "s3:DeleteObject", f"arn:aws:s3:::{BUCKET}/{key}")


def test_the_public_policy_is_that_of_the_reader_for_everybody() -> None:
    def bare(name: str) -> list[tuple[object, object]]:
        return [(statement["Action"], statement["Resource"]) for statement in example(name)["Statement"]]

    assert bare("public-read.json") == bare("reader.json")
    assert {statement["Principal"] for statement in example("public-read.json")["Statement"]} == {"*"}


def test_the_document_names_every_policy_and_no_other() -> None:
    for path in FOLDER.iterdir():
        assert path.name in DOCUMENT, path.name
    for action in actions(example("writer.json")):
        assert action in DOCUMENT


# --- tried on a store that goes by them, at the root of a bucket as the files say


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoleStore]:
    with with_roles(tmp_path_factory.mktemp("exact"), below="") as running:
        yield running


@pytest.fixture(autouse=True)
def _as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "exact" in request.fixturenames:
        request.getfixturevalue("exact").github.subject = MAIN


def test_the_writer_fills_the_reader_restores_and_is_refused_to_write(
    run: Callable[..., tuple[int, str]], exact: RoleStore, tmp_path: Path
) -> None:
    where = {
        **exact.github.job(),
        "CI_MODELCACHE_STORE": f"s3://{BUCKET}",
        "AWS_ENDPOINT_URL": exact.endpoint,
        "CI_MODELCACHE_ROLE_TO_ASSUME": arn("github-writer"),
    }
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").write_text("{}")
    for line in FILLING:
        code, said = run(line, **where)
        assert code == 0, said
    exact.github.subject = PULL_REQUEST
    reader = {**where, "CI_MODELCACHE_ROLE_TO_ASSUME": arn("github-reader")}
    for line in READING:
        code, said = run(line, **reader)
        assert code == (10 if "absent" in line else 0), said
    assert run("save saved acme/other@v1 --mode read-write", **reader)[0] == 12


def as_role(running: RoleStore, name: str, subject: str) -> S3Store:
    issuer = running.github if name.startswith("github") else running.gitlab
    role = AssumedRole(arn(name), lambda: issuer.token(sub=subject))
    retry = RetryPolicy(attempts=1, deadline=Deadline(60))
    return S3Store(BUCKET, endpoint_url=running.endpoint, region=REGION, retry=retry, role=role)


@pytest.mark.parametrize(
    ("role", "subject", "trusted"),
    [
        ("github-writer", MAIN, True),
        ("github-writer", PULL_REQUEST, False),
        ("github-writer", "repo:acme/app:ref:refs/heads/feature", False),
        ("github-writer", "repo:acme/app:ref:refs/tags/main", False),
        ("github-writer", "repo:evil/app:ref:refs/heads/main", False),
        ("github-reader", MAIN, True),
        ("github-reader", PULL_REQUEST, True),
        ("github-reader", "repo:acme/apple:pull_request", False),
        ("github-reader", "repo:evil/app:pull_request", False),
        ("gitlab-writer", PROTECTED, True),
        ("gitlab-writer", MERGE_REQUEST, False),
        ("gitlab-writer", "project_path:acme/app:ref_type:tag:ref:main", False),
        ("gitlab-reader", PROTECTED, True),
        ("gitlab-reader", MERGE_REQUEST, True),
        ("gitlab-reader", "project_path:acme/apple:ref_type:branch:ref:main", False),
    ],
)
def test_a_role_is_taken_on_by_those_whom_its_trust_policy_names(
    exact: RoleStore, monkeypatch: pytest.MonkeyPatch, role: str, subject: str, *, trusted: bool
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", exact.endpoint)
    store = as_role(exact, role, subject)
    if trusted:
        keys(store, "")
    else:
        with pytest.raises(AccessDenied, match="taking on the role"):
            keys(store, "")


def test_the_issuer_of_one_system_vouches_for_nobody_of_the_other(
    exact: RoleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", exact.endpoint)
    role = AssumedRole(arn("github-writer"), lambda: exact.gitlab.token(sub=MAIN))
    retry = RetryPolicy(attempts=1, deadline=Deadline(60))
    store = S3Store(BUCKET, endpoint_url=exact.endpoint, region=REGION, retry=retry, role=role)
    with pytest.raises(AccessDenied, match="taking on the role"):
        keys(store, "")


def test_the_writer_deletes_nothing_but_its_own_notes(exact: RoleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", exact.endpoint)
    store = as_role(exact, "github-writer", MAIN)
    for key in ("leases/x", "intents/x", "probe/x"):
        put(store, key, b"x")
        store.delete(key)
    put(store, "blobs/x", b"x")
    with pytest.raises(AccessDenied):
        store.delete("blobs/x")


def test_the_reader_writes_nothing_and_deletes_nothing(exact: RoleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", exact.endpoint)
    put(as_role(exact, "github-writer", MAIN), "leases/there", b"x")
    store = as_role(exact, "github-reader", PULL_REQUEST)
    assert get(store, "leases/there") == b"x"
    attempts: list[Callable[[], object]] = [
        lambda: put(store, "leases/there", b"y"),
        lambda: put(store, "blobs/large", content(17 * MIB)),
        lambda: store.delete("leases/there"),
    ]
    for attempt in attempts:
        with pytest.raises(AccessDenied):
            attempt()


def test_nobody_without_a_role_reads_the_bucket(exact: RoleStore) -> None:
    retry = RetryPolicy(attempts=1, deadline=Deadline(60))
    store = S3Store(BUCKET, endpoint_url=exact.endpoint, region=REGION, retry=retry)
    with pytest.raises(AccessDenied, match="no credentials"):
        keys(store, "")


# --- tried with the identities of SeaweedFS


def as_identity(server: S3Server, name: str, monkeypatch: pytest.MonkeyPatch, *, bucket: str = BUCKET) -> S3Store:
    found = next(each for each in example("seaweedfs-identities.json")["identities"] if each["name"] == name)
    with monkeypatch.context() as credentials:
        for each in found.get("credentials", []):
            login(credentials, (each["accessKey"], each["secretKey"]))
        retry = RetryPolicy(attempts=1, deadline=Deadline(60))
        return S3Store(bucket, next(_stores), endpoint_url=server.endpoint, region=REGION, retry=retry)


def test_the_identity_that_writes_fills_and_the_one_that_reads_is_refused(
    identities_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = as_identity(identities_server, "writer", monkeypatch)
    put(writer, "large", content(17 * MIB))
    put(writer, "intents/x", b"x")
    writer.delete("intents/x")
    reader = as_identity(identities_server, "reader", monkeypatch)
    with pytest.raises(AccessDenied):
        put(reader, "key", b"x")
    assert keys(reader, "") == []


@pytest.mark.parametrize("name", ["writer", "reader"])
def test_an_identity_of_one_bucket_is_nobody_in_another(
    identities_server: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = as_identity(identities_server, name, monkeypatch, bucket=PUBLIC)
    with pytest.raises(AccessDenied):
        put(store, "key", b"x")


def test_everybody_reads_the_public_bucket_and_nobody_but_the_known_the_other(
    identities_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys(as_identity(identities_server, "anonymous", monkeypatch, bucket=PUBLIC), "") == []
    for bucket, attempt in ((BUCKET, "scan"), (PUBLIC, "write")):
        store = as_identity(identities_server, "anonymous", monkeypatch, bucket=bucket)
        with pytest.raises(AccessDenied, match="no credentials"):
            keys(store, "") if attempt == "scan" else put(store, "key", b"x")


def test_none_of_the_identities_makes_or_empties_buckets(identities_server: S3Server) -> None:
    assert ADMIN[0] not in (FOLDER / "seaweedfs-identities.json").read_text()
    for identity in example("seaweedfs-identities.json")["identities"]:
        assert "Admin" not in identity["actions"]
        for each in identity.get("credentials", []):
            client = admin(identities_server, credentials=(each["accessKey"], each["secretKey"]))
            with pytest.raises(ClientError, match="AccessDenied"):
                client.delete_bucket(Bucket=BUCKET)
