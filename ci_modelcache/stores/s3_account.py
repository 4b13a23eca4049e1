"""
The only module that knows who asks a bucket when nobody but the environment says so, as in most jobs of a CI.

botocore's session finds that out, too; to import it takes as long as a restore of what is complete should take in all.
"""

from __future__ import annotations

from collections.abc import Mapping  # attrs resolves annotations
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.session import Session

_ID, _SECRET, _TOKENS = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", ("AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION, _CA_BUNDLE = "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"
_WITHOUT_MEANING = {"AWS_REGION", "AWS_EC2_METADATA_DISABLED", "AWS_PAGER"}
"""To botocore, or to somebody who has keys."""
_UNDERSTOOD = {_ID, _SECRET, *_TOKENS, *_ENDPOINTS, _REGION, _CA_BUNDLE, *_WITHOUT_MEANING}
_FILES = ("~/.aws/config", "~/.aws/credentials")


class Credentials(Protocol):
    """What requests are signed with; some are renewed."""

    def get_frozen_credentials(self) -> object:
        """Those of now, as botocore's signers read them; raises what botocore raises."""


@frozen
class Account:
    """
    Who asks, and what AWS's settings say of how; the names are those of botocore.

    *credentials* are None for somebody who has none; *agent* is what requests call who sends them.
    """

    credentials: Credentials | None = field(repr=False)
    region: str | None
    endpoint_url: str | None
    ca_bundle: str | None
    agent: str
    is_special: bool = False
    """Whether they say something that only botocore's client knows how to follow."""


@frozen
class _Fixed:
    """Keys that stay."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)

    def get_frozen_credentials(self) -> object:
        return self


@frozen
class Surroundings:
    """
    Whoever AWS's own tools would take us for here, or by a *profile* of AWS's files, whose credentials are used in place of all others.

    The variables of this process, where its owner gives them as *environ*, spare botocore's session.
    """

    environ: Mapping[str, str] = field(factory=dict, repr=False)
    profile: str | None = None

    def account(self) -> Account | None:
        """The account that the variables name; None where they have no keys, or where another of them or a file of AWS may say more."""
        given = {name: value for name, value in self.environ.items() if name.startswith("AWS_")}
        said = {name: value for name, value in given.items() if value}
        if self.profile or not {_ID, _SECRET} <= said.keys() or not given.keys() <= _UNDERSTOOD or _has_files():
            return None
        token = next((said[name] for name in _TOKENS if name in said), None)
        return Account(
            credentials=_Fixed(said[_ID], said[_SECRET], token),
            region=said.get(_REGION),
            endpoint_url=next((said[name] for name in _ENDPOINTS if name in said), None),
            ca_bundle=said.get(_CA_BUNDLE),
            agent="ci-modelcache",
        )

    def session(
        self,
        *,
        region: str | None,  # noqa: ARG002  # as that of `AssumedRole`
        ca_bundle: str | None,  # noqa: ARG002  # as above
        timeout: Callable[[], float],  # noqa: ARG002  # as above
    ) -> Session:
        """A session whose clients act so."""
        from botocore.session import Session  # noqa: PLC0415  # 50 ms of imports that an account in the environment spares

        return Session(profile=self.profile)


def _has_files() -> bool:
    return any(Path(file).expanduser().exists() for file in _FILES)
