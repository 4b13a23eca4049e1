"""
The only module that turns values into JSON or TOML documents and back, strictly.

JSON is canonical (RFC 8785), so that a value has one digest. Reading refuses unknown and missing
fields, wrong types, duplicate keys, NaN, and documents larger than `MAX_DOCUMENT`.
"""

from __future__ import annotations

import functools
import json
import tomllib
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import rfc8785

from ci_modelcache.errors import ManifestInvalid
from ci_modelcache.model.digest import Digest

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

MAX_DOCUMENT = 32 * 1024 * 1024
"""Bytes of the largest document read into memory: a manifest of 100,000 files has about 30 MB."""


@functools.cache
def _converter() -> Converter:
    from cattrs import Converter  # noqa: PLC0415  # 60 ms that only documents need

    converter = Converter(forbid_extra_keys=True)
    for exact in (str, int, bool):
        converter.register_structure_hook(exact, functools.partial(_exactly, exact))
    converter.register_structure_hook(Digest, lambda value, _: Digest(value))
    converter.register_unstructure_hook(Digest, str)
    return converter


def _exactly(exact: type, value: object, _type: type) -> object:
    if type(value) is not exact:
        msg = f"expected {exact.__name__}, got {type(value).__name__}"
        raise TypeError(msg)
    return value


def to_plain(value: object) -> Any:  # noqa: ANN401  # JSON has no narrower type
    """*value* as dicts, lists, strings, numbers and None."""
    return _converter().unstructure(value)


def from_plain(plain: object, kind: type[T], what: str) -> T:
    """*plain* as a *kind*; raises `ManifestInvalid` naming *what* and every defect."""
    from cattrs import transform_error  # noqa: PLC0415  # as above

    try:
        return _converter().structure(plain, kind)
    except ExceptionGroup as error:
        defects = "; ".join(transform_error(error, path="$", format_exception=_defect)[:5])
        msg = f"{what} breaks its format: {defects:.600}"
        raise ManifestInvalid(msg) from error
    except RecursionError as error:
        msg = f"{what} is nested too deeply"
        raise ManifestInvalid(msg) from error


def _defect(error: BaseException, _type: type | None) -> str:
    if isinstance(error, KeyError):
        return f"required field {error} is missing"
    return str(error)


def to_json(value: object) -> bytes:
    """*value* as canonical JSON."""
    return rfc8785.dumps(to_plain(value))


def parse_json(data: bytes, what: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
    """*data* as plain JSON values; raises `ManifestInvalid` naming *what*."""
    if len(data) > MAX_DOCUMENT:
        msg = f"{what} has {len(data)} bytes, at most {MAX_DOCUMENT} are read"
        raise ManifestInvalid(msg)
    try:
        return json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        msg = f"{what} is not JSON: {error}"
        raise ManifestInvalid(msg) from error


def from_json(data: bytes, kind: type[T], what: str) -> T:
    """*data* as a *kind*; raises `ManifestInvalid` naming *what*."""
    return from_plain(parse_json(data, what), kind, what)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "an object names a member twice"
        raise ValueError(msg)
    return members


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is no JSON number"
    raise ValueError(msg)


def parse_toml(text: str, what: str) -> dict[str, Any]:
    """*text* as plain TOML values; raises `ManifestInvalid` naming *what* and the line."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        msg = f"{what} is not TOML: {error}"
        raise ManifestInvalid(msg) from error


def to_toml(value: object, *, header: str) -> str:
    """*value* as TOML below the comment lines of *header*; None fields are left out, as TOML has no null."""
    import tomli_w  # noqa: PLC0415  # only `lock` writes TOML

    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return f"{comment}\n{tomli_w.dumps(_without_none(to_plain(value)))}"


def _without_none(plain: Any) -> Any:  # noqa: ANN401  # recursive over JSON values
    if isinstance(plain, dict):
        return {key: _without_none(value) for key, value in plain.items() if value is not None}
    if isinstance(plain, (list, tuple)):
        return [_without_none(value) for value in plain]
    return plain
