"""The only module that knows how a bucket is asked: by whom, within which time, and one request through a botocore client or without."""

from __future__ import annotations

import logging
import re
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ci_modelcache.errors import ConfigError
from ci_modelcache.stores.keys import is_key
from ci_modelcache.stores.s3_account import Surroundings
from ci_modelcache.stores.s3_errors import explaining
from ci_modelcache.stores.s3_light import Elsewhere, Light
from ci_modelcache.stores.s3_memory import PartMemory
from ci_modelcache.stores.s3_place import place_of
from ci_modelcache.stores.s3_wire import ByClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.credentials import Credentials, ReadOnlyCredentials
    from botocore.session import Session
    from mypy_boto3_s3.client import S3Client

    from ci_modelcache.stores.s3_account import Account
    from ci_modelcache.stores.s3_place import Place
    from ci_modelcache.stores.s3_role import AssumedRole
    from ci_modelcache.stores.s3_wire import Wire
    from ci_modelcache.transfer.retry import RetryPolicy

T = TypeVar("T")

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds; a server that is there accepts at once."""
READ_TIMEOUTS = (30.0, 15.0, 7.0, 3.0, 1.0)
"""Seconds of silence that are borne: the longest that fits into what is left until the deadline, or the shortest."""
PART_MEMORY = 96 * 1024 * 1024
"""Bytes that all writes to a store together have in memory: six parts of 16 MiB, fewer of larger ones."""
DEFAULT_REGION = "us-east-1"
"""For stores that have no regions; AWS redirects from there to the bucket's own."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class Bucket:
    """
    The part of a bucket below *prefix*, and how to talk to it.

    Credentials are those of *role*, or come from botocore's own chain: environment, profiles, web identity, container and
    machine roles. Where none are found the bucket is asked without, as everybody may read some. An empty *endpoint_url* is AWS's
    own, whatever the environment says; None leaves that to botocore.
    botocore retries nothing, since *retry* does; and no single request outlasts its deadline by more than a second.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        ca_bundle: str | None,
        retry: RetryPolicy,
        role: AssumedRole | Surroundings | None = None,
    ) -> None:
        self.name = name
        self.url = f"s3://{name}/{prefix}" if prefix else f"s3://{name}"
        self.retry = retry
        self.memory = PartMemory(PART_MEMORY)
        self._prefix = f"{prefix}/" if prefix else ""
        self._clients: dict[float, S3Client] = {}
        self._lights: dict[float, Light] = {}
        self._lock = threading.Lock()
        self._role = role or Surroundings()
        self._endpoint_url, self._region, self._ca_bundle = endpoint_url, region, ca_bundle
        self._check(prefix)
        with explaining("opening the store", store=self.url):
            self._account = self._whoever()
            self._place = place_of(self._account, name, endpoint_url=endpoint_url, region=self.region)
        if self.anonymous:
            _log.info("no credentials were found: %s is asked without", self.url)
        if self._place is None:
            self.client()  # now, so that a wrong setting is told before work begins

    @property
    def anonymous(self) -> bool:
        """Whether there are no credentials, so that nothing is signed."""
        return self._account.credentials is None

    def _whoever(self) -> Account:
        if isinstance(self._role, Surroundings) and (account := self._role.account()) is not None:
            return account
        from ci_modelcache.stores.s3_session import account_of  # noqa: PLC0415  # 50 ms of imports that an account in the environment spares

        return account_of(self._session)

    @cached_property
    def _session(self) -> Session:
        region = self._region or DEFAULT_REGION
        return self._role.session(region=region, ca_bundle=self._ca_bundle, timeout=self._timeout)

    def _check(self, prefix: str) -> None:
        if _BUCKET.fullmatch(self.name) is None:
            msg = f"not the name of a bucket: {self.name!r:.100}"
            raise ConfigError(msg, hint="write the store as s3://bucket or s3://bucket/prefix")
        if prefix and not is_key(prefix):
            msg = f"not a prefix for a store: {prefix!r:.100}"
            raise ConfigError(msg, hint="use letters, digits, '.', '_', '-' and single '/' between them")
        if self._ca_bundle is not None and not Path(self._ca_bundle).exists():
            msg = f"there is no CA bundle at {self._ca_bundle}"
            raise ConfigError(msg, hint="give --ca-bundle the path of a PEM file with the certificates to trust")

    def full(self, key: str) -> str:
        """What S3 calls *key*."""
        return self._prefix + key

    def short(self, full: str) -> str:
        """The inverse of `full`."""
        return full.removeprefix(self._prefix)

    def once(self, request: Callable[[S3Client], T], *, doing: str, key: str | None = None) -> T:
        """The result of one *request*; its failures are raised as a store's, with *doing* and *key* in their messages."""
        client = self.client()
        _log.debug("%s (%s)", doing, self.url)
        with explaining(doing, store=self.url, key=key, anonymous=self.anonymous):
            return request(client)

    def retried(self, request: Callable[[S3Client], T], *, doing: str, key: str | None = None) -> T:
        """The result of *request*, made again for as long as `retry` allows."""
        return self.retry.call(lambda: self.once(request, doing=doing, key=key), doing=f"{doing} ({self.url})")

    def asked(self, request: Callable[[Wire], T], *, doing: str, key: str | None = None) -> T:
        """As `once`, without a client where the bucket is at a place that is known."""
        light = self._light()
        if light is not None:
            _log.debug("%s (%s)", doing, self.url)
            try:
                with explaining(doing, store=self.url, key=key, anonymous=self.anonymous):
                    return request(light)
            except Elsewhere as said:
                _log.debug("%s (%s): the server sends it elsewhere: %s", doing, self.url, said)
        result = self.once(lambda client: request(ByClient(client, self.name)), doing=doing, key=key)
        if light is not None:
            self._place = None  # the client knows by now where the bucket is
        return result

    def _light(self) -> Light | None:
        place, seconds = self._place, self._timeout()
        if place is None:
            return None
        with self._lock:
            if seconds not in self._lights:
                self._lights[seconds] = self._new_light(place, seconds)
            return self._lights[seconds]

    def _new_light(self, place: Place, seconds: float) -> Light:
        with explaining("opening the store", store=self.url):
            account, verify = self._account, self._ca_bundle or self._account.ca_bundle
            try:
                return Light(
                    place,
                    account.credentials,
                    verify=verify,
                    timeouts=_timeouts(seconds),
                    agent=account.agent,
                )
            except OSError as error:  # what is wrong with the file of authorities; that of ssl is one, too
                msg = (
                    f"no certificates can be read from {verify or 'the CA bundle of the environment'}: {error.strerror}"
                )
                hint = "give --ca-bundle, AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE the path of a PEM file with the certificates to trust"
                raise ConfigError(msg, hint=hint) from error

    def client(self) -> S3Client:
        """A client whose timeouts fit into the time that is left. It can be used from any thread."""
        seconds = self._timeout()
        with self._lock:
            if seconds not in self._clients:
                self._clients[seconds] = self._new_client(seconds, region=self.region)
            return self._clients[seconds]

    def credentials(self) -> Credentials | None:
        """Those of botocore, which it may renew; None for a bucket that is asked without."""
        return self._session.get_credentials()

    def signer(self, frozen: ReadOnlyCredentials, *, region: str) -> S3Client:
        """A client for the *region* that signs with credentials which do not change meanwhile."""
        return self._new_client(self._timeout(), region=region, signing=frozen)

    @property
    def region(self) -> str:
        """The one that the settings name, or the usual one."""
        return self._region or self._account.region or DEFAULT_REGION

    def _timeout(self) -> float:
        left = self.retry.deadline.remaining()
        return next((each for each in READ_TIMEOUTS if each <= left), READ_TIMEOUTS[-1])

    def _new_client(self, seconds: float, *, region: str, signing: ReadOnlyCredentials | None = None) -> S3Client:
        from ci_modelcache.stores.s3_client import new_client  # noqa: PLC0415  # as above

        with explaining("opening the store", store=self.url):
            return new_client(
                self._session,
                endpoint_url=self._endpoint_url,
                region=region,
                ca_bundle=self._ca_bundle,
                timeouts=_timeouts(seconds),
                anonymous=self.anonymous,
                signing=signing,
            )


def _timeouts(seconds: float) -> tuple[float, float]:
    """Those of connecting and of silence."""
    return min(CONNECT_TIMEOUT, seconds), seconds
