"""The only module that looks at a bundle of certificates before a connection does, when its name can still be corrected."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def checked(ca_bundle: Path) -> str:
    """*ca_bundle*, a file or a folder, as it is; raises `ConfigError` when it cannot be used."""
    try:
        folder = ca_bundle.is_dir()
        ssl.create_default_context(cafile=None if folder else ca_bundle, capath=ca_bundle if folder else None)
    except OSError as error:  # an ssl.SSLError is one
        msg = f"cannot use the CA bundle {ca_bundle}: {error.strerror or error}"
        raise ConfigError(
            msg, hint="--ca-bundle takes a PEM file, such as /etc/ssl/certs/ca-certificates.crt"
        ) from error
    return str(ca_bundle)
