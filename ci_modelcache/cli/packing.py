"""The only module that decides whether what is stored anew is packed: as the settings say, and where it can be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci_modelcache.errors import StoreUnsupported
from ci_modelcache.model.encoding import Encoding
from ci_modelcache.transfer.packing import Packer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci_modelcache.config import Config


def packer_of(config: Config, *, warn: Callable[[str], None]) -> Packer | None:
    """Who packs as *config* says; None, and a word to *warn*, where a library is missing: for commands that do not exist to fill the store."""
    if config.encoding is Encoding.RAW:
        return None
    packer = Packer(config.state / "packing")
    try:
        packer.require()
    except StoreUnsupported as error:
        warn(f"what is saved is stored raw: {error.message} ({error.hint})")
        return None
    return packer


def require_packer(config: Config) -> None:
    """Raise `StoreUnsupported` when *config* wants to have packed what cannot be packed here."""
    if config.encoding is not Encoding.RAW:
        Packer(config.state / "packing").require()
