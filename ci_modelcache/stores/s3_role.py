"""The only module that exchanges the identity of a CI job for S3 credentials, by STS's AssumeRoleWithWebIdentity."""

from __future__ import annotations

import copy
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import botocore.session
from attrs import field, frozen
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleWithWebIdentityCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)

from ci_modelcache.errors import ConfigError, ModelCacheError
from ci_modelcache.model.hidden import Secrets
from ci_modelcache.stores.s3_errors import explaining_role

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds; as for the store itself."""
_ADVISORY, _MANDATORY = 900.0, 600.0
"""Seconds before their end at which botocore tries to renew credentials, and from which on it insists. Here it is a quarter and
an eighth of their time when that is less: botocore's own would exchange those of a short session before each request."""
_PAUSE = 30.0
"""Seconds between two tries to renew credentials that still serve."""


def _anybody(_token: str) -> str:
    return "this job"


@frozen
class AssumedRole:
    """
    The role *arn* (of AWS, or of a store that has an STS), taken on by whoever *token* says that we are.

    *token* returns an ID token; it is called anew for each exchange, for such tokens live minutes, and raises `ConfigError`,
    `AccessDenied` or `Unavailable`. *described* tells people who a token is about. All that comes to be known, the token
    too, is added to *secrets*.
    """

    arn: str
    token: Callable[[], str] = field(repr=False)
    secrets: Secrets = field(factory=Secrets)
    described: Callable[[str], str] = field(default=_anybody, repr=False)
    session_name: str = "ci-modelcache"
    """What the log of the other side (CloudTrail) calls the session: 2 to 64 letters, digits and ``_+=,.@-``."""

    def session(
        self, *, region: str | None, ca_bundle: str | None, timeout: Callable[[], float]
    ) -> botocore.session.Session:
        """
        A session whose clients act in this role for as long as they live; nothing is asked before the first request.

        The STS is that of *region*, or the one that AWS_ENDPOINT_URL_STS or AWS_ENDPOINT_URL names; each exchange takes no longer than
        *timeout* says then, in seconds.
        """
        exchange = _Exchange(self, region=region, ca_bundle=ca_bundle, timeout=timeout)
        session = botocore.session.get_session()
        # In place of the whole chain: keys that lie about in the environment are not those that were asked for.
        session.register_component("credential_provider", CredentialResolver([_Provider(_Renewed(exchange))]))
        return session


class _Exchange:
    """One exchange of a token of *role* for credentials each time it is called; once, for whoever calls tries again."""

    def __init__(
        self, role: AssumedRole, *, region: str | None, ca_bundle: str | None, timeout: Callable[[], float]
    ) -> None:
        self.role = role
        self._region, self._ca_bundle, self._timeout = region, ca_bundle, timeout
        self._session = botocore.session.get_session()
        self._described = "this job"

    def __call__(self) -> dict[str, Any]:
        fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
            self._client, self._token, self.role.arn, extra_args={"RoleSessionName": self.role.session_name}
        )
        with explaining_role(self.role.arn, whose=lambda: self._described):
            found: dict[str, Any] = fetcher.fetch_credentials()
        self.role.secrets.add(found["secret_key"])
        self.role.secrets.add(found["token"])
        return found

    def _token(self) -> str:
        token = self.role.token()
        self.role.secrets.add(token)
        self._described = self.role.described(token)
        return token

    def _client(self, service: str, *, config: Config) -> Any:  # noqa: ANN401  # botocore makes its classes at run time
        seconds = self._timeout()
        patience = Config(
            connect_timeout=min(CONNECT_TIMEOUT, seconds),
            read_timeout=seconds,
            retries={"mode": "standard", "total_max_attempts": 1},
            user_agent_extra="ci-modelcache",
        )
        return self._session.create_client(
            service,
            region_name=self._region,
            verify=self._ca_bundle,
            config=config.merge(patience),
        )


class _Renewed(DeferredRefreshableCredentials):
    """
    Credentials of a role, exchanged when they are needed first and renewed before they end.

    When that fails the old ones are used, to their last eighth; then, and the first time, the failure is raised.
    """

    def __init__(self, exchange: _Exchange) -> None:
        super().__init__(self._hand_over, _Provider.METHOD)
        self._exchange = exchange
        self._fresh: dict[str, Any] = {}
        self._not_before = 0.0
        self._failure: ModelCacheError | None = None
        self._failures = 0
        self._seen = threading.local()

    def _refresh(self) -> None:
        self._seen.failures = self._failures
        super()._refresh()  # type: ignore[misc]  # the stubs leave out what begins with an underscore

    def _protected_refresh(self, is_mandatory: bool) -> None:  # noqa: FBT001  # botocore's signature
        # Before botocore's own, which logs whatever is raised with its traceback.
        if not is_mandatory and time.monotonic() < self._not_before:
            return
        if self._failure is not None and self._failures > self._seen.failures:
            # While this thread waited for its turn another one failed: asking again at once would tell nothing new.
            raise copy.copy(self._failure)
        try:
            self._fresh = self._exchange()
            self._date(self._fresh)
        except ModelCacheError as error:
            self._failure, self._failures = error, self._failures + 1
            if is_mandatory:
                raise
            self._not_before = time.monotonic() + _PAUSE
            _log.warning(
                "the credentials of %s could not be renewed, the old ones are used: %s", self._exchange.role.arn, error
            )
            return
        super()._protected_refresh(is_mandatory)  # type: ignore[misc]  # as above

    def _date(self, fresh: dict[str, Any]) -> None:
        end = dt.datetime.fromisoformat(fresh["expiry_time"])
        lasts = (end - dt.datetime.now(dt.UTC)).total_seconds()
        if lasts <= 0:
            msg = f"taking on the role {self._exchange.role.arn}: got credentials that ended {-lasts:.0f} s ago"
            raise ConfigError(msg, hint="compare the clocks of this machine and of the STS")
        self._advisory_refresh_timeout = min(_ADVISORY, lasts / 4)
        self._mandatory_refresh_timeout = min(_MANDATORY, lasts / 8)
        _log.info("got credentials of %s, good for %.0f s", self._exchange.role.arn, lasts)

    def _hand_over(self) -> dict[str, Any]:
        return self._fresh


class _Provider(CredentialProvider):
    """Hands botocore the credentials that there are."""

    METHOD = "assumed-role"
    CANONICAL_NAME = "custom-ci-modelcache"

    def __init__(self, credentials: _Renewed) -> None:
        super().__init__()
        self._credentials = credentials

    def load(self) -> _Renewed:
        return self._credentials
