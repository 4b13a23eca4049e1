"""The only module that asks botocore's session who we are, by its chain of environment, files, web identity, container and machine roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.configprovider import ConfiguredEndpointProvider

from ci_modelcache.stores.s3_account import Account

if TYPE_CHECKING:
    from botocore.session import Session

_SPECIAL = (
    "s3",
    "auth_scheme_preference",
    "csm_enabled",
    "data_path",
    "sigv4a_signing_region_set",
    "use_dualstack_endpoint",
    "use_fips_endpoint",
)
"""Settings of AWS's files and environment that change where a bucket is or how it is asked."""


def account_of(session: Session) -> Account:
    """The account of *session*; raises what botocore raises."""
    return Account(
        credentials=session.get_credentials(),
        region=session.get_config_variable("region"),
        endpoint_url=_configured(session),
        ca_bundle=session.get_config_variable("ca_bundle"),
        agent=f"{session.user_agent()} ci-modelcache",
        is_special=_is_special(session),
    )


def _is_special(session: Session) -> bool:
    return (
        any(session.get_config_variable(each) for each in _SPECIAL)
        or session.get_config_variable("defaults_mode") not in {None, "legacy"}
        or bool(session.get_scoped_config().get("s3"))
    )


def _configured(session: Session) -> str | None:
    """The endpoint that AWS's files and environment name."""
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    provider = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3")
    found: str | None = provider.provide()
    return found
