"""The only module that shows settings: as `ci-modelcache config` prints them, and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ci_modelcache.model.rate import format_rate
from ci_modelcache.model.redact import redact
from ci_modelcache.settings import SETTINGS, Setting
from ci_modelcache.sources.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ci_modelcache.config import Config
    from ci_modelcache.model.mirror import Mirror


@frozen
class Row:
    """A setting as `ci-modelcache config` shows it: *value* as JSON has it, *text* for people, maybe of several lines."""

    name: str
    value: str | float | bool | list[dict[str, Any]] | list[str] | None
    text: str
    origin: str


def rows(config: Config) -> tuple[Row, ...]:
    """Every setting, in the order of `SETTINGS`; a secret is ``***``."""
    return tuple(_row(config, setting) for setting in SETTINGS)


def _row(config: Config, setting: Setting) -> Row:
    origin = str(config.origins[setting.name])
    if setting.name == "mirrors":
        return Row(setting.name, [_mirror(one) for one in config.mirrors], _lines(config.mirrors), origin)
    if setting.name == "tokens":
        sources = [{"host": one.host, "provider": one.text, "origin": str(one.origin)} for one in config.token_sources]
        lines = "\n".join(f"{one.host}: {one.text} ({one.origin})" for one in config.token_sources)
        return Row(setting.name, sources, lines or "-", origin)
    value = getattr(config, setting.attribute)
    if isinstance(value, tuple):
        return Row(setting.name, list(value), "\n".join(value) or "-", origin)
    value = str(value) if isinstance(value, str | Path | Token) else value
    show = setting.kind.show if value is not None else None
    return Row(setting.name, value, _text(value) if show is None else show(value), origin)


def _mirror(mirror: Mirror) -> dict[str, Any]:
    """*mirror* as JSON has it."""
    return {
        "url": mirror.url,
        "kind": str(mirror.kind),
        "priority": mirror.priority,
        "token": mirror.token and redact(mirror.token),
        "region": mirror.region,
        "max_rate": mirror.max_rate,
        "trust": mirror.trust,
    }


def _lines(mirrors: Iterable[Mirror]) -> str:
    """*mirrors* as people read them, one a line."""
    shown = []
    for one in mirrors:
        more = [f"token {redact(one.token)}"] if one.token else []
        more += [f"region {one.region}"] if one.region else []
        more += [f"at most {format_rate(one.max_rate)}"] if one.max_rate else []
        more += ["trusted"] if one.trust else []
        shown.append(f"{one.url} ({', '.join(more)})" if more else one.url)
    return "\n".join(shown) or "-"


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g} s"
    return str(value)
