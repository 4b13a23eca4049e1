"""
The only module that turns values into JSON or TOML documents and back, strictly.

JSON is canonical (RFC 8785), so that a value has one digest. Reading refuses unknown and missing
fields, wrong types, duplicate keys, NaN, and documents larger than `MAX_DOCUMENT`.
"""

from __future__ import annotations

import functools
import json
import tomllib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import attrs
import rfc8785

from ci_modelcache.errors import ManifestInvalid, ModelCacheError, StoreUnsupported, UnsafePath
from ci_modelcache.model.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cattrs import Converter

T = TypeVar("T")

MAX_DOCUMENT = 32 * 1024 * 1024
"""Bytes of the largest document written or read: a manifest of 100,000 files has about 25 MB."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_SHOWN = 5
"""Defects that an error message lists."""
_NAMES = {dict: "object", list: "list", type(None): "null"}


class _WrongType(TypeError):
    """A value of a type that its field does not have."""


@functools.cache
def _converter(*, detailed: bool = False) -> Converter:
    """*detailed*: it says what is wrong and where, which takes twice as long, and code that is twice as long to make."""
    from cattrs import Converter  # noqa: PLC0415  # 60 ms that only documents need
    from cattrs.gen import make_dict_structure_fn, mapping_structure_factory  # noqa: PLC0415  # as above

    converter = Converter(detailed_validation=detailed)
    for exact in (int, bool):
        converter.register_structure_hook(exact, functools.partial(_exactly, exact))
    # cattrs uses the hook of str for every subclass of it, and so for each StrEnum.
    converter.register_structure_hook(
        str, lambda value, kind: _member(value, kind) if issubclass(kind, StrEnum) else _exactly(str, value)
    )
    converter.register_structure_hook_func(lambda kind: kind == str | bool, _text_or_switch)
    converter.register_structure_hook(Digest, lambda value, _: Digest(_exactly(str, value)))
    converter.register_unstructure_hook(Digest, str)
    # By itself cattrs takes any iterable for a tuple (the letters of a text, the keys of an object).
    converter.register_structure_hook_factory(
        _generic(tuple),
        lambda kind: _only(list, converter.get_structure_hook(list[get_args(kind)[0]]), then=tuple),  # type: ignore[misc]  # a type made at run time
    )
    converter.register_structure_hook_factory(
        _generic(dict),
        lambda kind: _only(dict, mapping_structure_factory(kind, converter, detailed_validation=detailed)),
    )
    converter.register_structure_hook_factory(
        attrs.has,
        lambda kind: _only(
            dict,
            make_dict_structure_fn(
                kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=detailed
            ),
        ),
    )
    return converter


def _generic(origin: type) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) == origin


def _exactly(exact: type[T], value: object, _type: object = None) -> T:
    if type(value) is not exact:
        msg = f"expected {_named(exact)}, got {_named(type(value))}"
        raise _WrongType(msg)
    return value


def _text_or_switch(value: object, _type: object) -> object:
    if type(value) not in {str, bool}:
        msg = f"expected str or bool, got {_named(type(value))}"
        raise _WrongType(msg)
    return value


def _named(kind: type) -> str:
    return _NAMES.get(kind, kind.__name__)


def _members(value: object, member: Callable[[object], T]) -> dict[str, T]:
    return {name: member(each) for name, each in _exactly(dict, value).items()}


_text = functools.partial(_exactly, str)
_SIMPLE: dict[object, Callable[[object], object]] = {
    str: _text,
    int: functools.partial(_exactly, int),
    bool: functools.partial(_exactly, bool),
    Digest: lambda value: Digest(_text(value)),
    tuple[str, ...]: lambda value: tuple(map(_text, _exactly(list, value))),
    dict[str, str]: lambda value: _members(value, _text),
    dict[str, str | bool]: lambda value: _members(value, lambda each: _text_or_switch(each, None)),
}
"""How fields of small documents are read without cattrs, which takes longer to get ready than a store to answer."""


@functools.cache
def _simple(kind: type) -> dict[str, Callable[[object], object]]:
    """How each field of *kind* is read; nothing when one of them is of a type that takes more."""
    hints = get_type_hints(kind) if attrs.has(kind) else {}
    return {name: _SIMPLE[hint] for name, hint in hints.items()} if _SIMPLE.keys() >= set(hints.values()) else {}


def _only(
    exact: type, structure: Callable[[Any, Any], Any], *, then: Callable[[Any], Any] | None = None
) -> Callable[[Any, Any], Any]:
    def checked(value: object, kind: Any) -> Any:  # noqa: ANN401  # cattrs' own signature
        result = structure(_exactly(exact, value), kind)
        return result if then is None else then(result)

    return checked


def _member(value: object, kind: type[StrEnum]) -> StrEnum:
    try:
        return kind(_exactly(str, value))
    except ValueError:
        msg = f"expected one of {', '.join(kind)}, got {value!r:.100}"
        raise ValueError(msg) from None


def to_plain(value: object) -> Any:  # noqa: ANN401  # JSON has no narrower type
    """*value* as dicts, lists, strings, numbers and None."""
    return _converter().unstructure(value)


def from_plain(plain: object, kind: type[T], what: str) -> T:
    """
    *plain* as a *kind*; raises `ManifestInvalid` naming *what* and the places of its defects.

    Where a constructor said `StoreUnsupported` or `UnsafePath`, that is raised instead: the document is well formed.
    """
    try:
        fields = _simple(kind)  # type: ignore[arg-type]  # mypy does not see that a type has a hash
        if isinstance(plain, dict) and plain.keys() == fields.keys() != set():
            return kind(**{name: read(plain[name]) for name, read in fields.items()})
        return _converter().structure(plain, kind)
    except Exception:  # noqa: BLE001  # whatever it is: asked again, in detail
        return _in_detail(plain, kind, what)


def _in_detail(plain: object, kind: type[T], what: str) -> T:
    from cattrs import BaseValidationError  # noqa: PLC0415  # as above

    try:
        return _converter(detailed=True).structure(plain, kind)
    except (BaseValidationError, _WrongType) as error:
        raise _invalid(list(_defects(error, "$")), what) from error
    except RecursionError as error:
        msg = f"{what} is nested too deeply"
        raise ManifestInvalid(msg) from error


def _defects(error: Exception, path: str) -> Iterator[tuple[str, Exception]]:
    """Each single failure below *error* with its path in the document."""
    from cattrs import ClassValidationError, IterableValidationError  # noqa: PLC0415  # as above

    match error:
        case ClassValidationError():
            noted, bare = error.group_exceptions()
            steps = [(each, f".{note.name}") for each, note in noted]
        case IterableValidationError():
            places, bare = error.group_exceptions()
            steps = [(each, f"[{note.index!r}]") for each, note in places]
        case _:
            yield path, error
            return
    for each, step in [*steps, *((each, "") for each in bare)]:
        yield from _defects(each, path + step)


def _invalid(defects: list[tuple[str, Exception]], what: str) -> ModelCacheError:
    for own in (StoreUnsupported, UnsafePath):
        for _, error in defects:
            if isinstance(error, own):
                return own(f"{what}: {error.message}", hint=error.hint)
    said = "; ".join(f"{path}: {_said(error):.300}" for path, error in defects[:_SHOWN])
    more = f"; and {len(defects) - _SHOWN} more" if len(defects) > _SHOWN else ""
    hint = next((error.hint for _, error in defects if isinstance(error, ModelCacheError) and error.hint), None)
    return ManifestInvalid(f"{what} breaks its format: {said}{more}", hint=hint)


def _said(error: Exception) -> str:
    from cattrs import ForbiddenExtraKeysError  # noqa: PLC0415  # as above

    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown field {', '.join(sorted(error.extra_fields))}"
    return "missing" if isinstance(error, KeyError) else str(error)


def to_json(value: object) -> bytes:
    """*value* as canonical JSON; raises `ManifestInvalid` for one that no reader would accept."""
    return _written(rfc8785.dumps, to_plain(value), type(value).__name__)


def simple_json(plain: object, what: str) -> bytes:
    """
    As `to_json`, of a *plain* value whose numbers are integers below 2^53 and whose members have names of ASCII.

    Of such the encoder of Python itself, which is compiled, writes the same bytes in a third of the time. *what* is for messages.
    """
    return _written(lambda value: _ENCODER.encode(value).encode(), plain, what)


def _written(write: Callable[[Any], bytes], plain: object, what: str) -> bytes:
    try:
        data = write(plain)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        msg = f"{what} cannot be written as JSON: {error}"
        raise ManifestInvalid(msg) from error
    if len(data) > MAX_DOCUMENT:
        msg = f"{what} has {len(data)} bytes as JSON, at most {MAX_DOCUMENT} are read again"
        raise ManifestInvalid(msg, hint="choose fewer files with --include or --exclude")
    return data


def parse_json(data: bytes, what: str) -> Any:  # noqa: ANN401  # JSON has no narrower type
    """*data* as plain JSON values; raises `ManifestInvalid` naming *what*."""
    if len(data) > MAX_DOCUMENT:
        msg = f"{what} has {len(data)} bytes, at most {MAX_DOCUMENT} are read"
        raise ManifestInvalid(msg)
    try:
        # Decoded here: json itself would guess UTF-16 or UTF-32.
        return json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
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
    except (ValueError, RecursionError) as error:
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
