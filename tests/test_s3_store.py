from __future__ import annotations

import copy
import functools
import itertools
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import StoreContract
from tests.parts.servers import BUCKET, REGION, login

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.stores.protocol import Store
    from tests.parts.servers import S3Server

_prefixes = map("test-{}".format, itertools.count())


def impatient(*, attempts: int = 4, seconds: float = 60) -> RetryPolicy:
    return RetryPolicy(attempts=attempts, base=0.01, cap=0.05, deadline=Deadline(seconds))


def open_at(
    endpoint: str, *, bucket: str = BUCKET, prefix: str | None = None, retry: RetryPolicy | None = None
) -> S3Store:
    return S3Store(
        bucket,
        next(_prefixes) if prefix is None else prefix,
        endpoint_url=endpoint,
        region=REGION,
        retry=retry or impatient(),
    )


def elsewhere(store: S3Store) -> S3Store:
    """*store* at an empty prefix: a store made from scratch reads a tenth of a second of botocore's tables first."""
    moved, bucket = copy.copy(store), copy.copy(store._bucket)
    prefix = next(_prefixes)
    bucket.url, bucket._prefix, bucket.retry = f"s3://{bucket.name}/{prefix}", f"{prefix}/", impatient()
    moved._bucket = bucket
    return moved


@pytest.fixture(scope="session")
def opened() -> Callable[[S3Server, str], S3Store]:
    """Opens a store once in the session, as `ADMIN`."""

    @functools.cache
    def opens(server: S3Server, bucket: str) -> S3Store:
        with pytest.MonkeyPatch.context() as monkeypatch:
            login(monkeypatch)
            return open_at(server.endpoint, bucket=bucket)

    return opens


class S3Contract(StoreContract):
    """The contract, on the real server that the fixture *server* gives."""

    @pytest.fixture
    def server(self) -> S3Server:
        raise NotImplementedError

    @pytest.fixture
    def store(self, server: S3Server, opened: Callable[[S3Server, str], S3Store]) -> Store:
        return elsewhere(opened(server, BUCKET))

    @pytest.fixture
    def homeless(self, server: S3Server, opened: Callable[[S3Server, str], S3Store]) -> Store:
        return elsewhere(opened(server, "no-such-bucket"))


class TestSeaweedFS(S3Contract):
    @pytest.fixture
    def server(self, seaweedfs_server: S3Server) -> S3Server:
        return seaweedfs_server


class TestRclone(S3Contract):
    refuses_second = False
    stays = False  # a write that fails beside another one takes the object away

    @pytest.fixture
    def server(self, rclone_server: S3Server) -> S3Server:
        return rclone_server


class TestMoto(S3Contract):
    many = 40  # it is slow, and its pages are those of the others

    @pytest.fixture
    def server(self, moto_server: S3Server) -> S3Server:
        return moto_server
