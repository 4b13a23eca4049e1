"""A document is read exactly as it is specified, or refused with the place of each defect."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from attrs import Factory, field, fields, frozen
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError, InvalidRef, ManifestInvalid, ModelCacheError, StoreUnsupported, UnsafePath
from ci_modelcache.model import document
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import (
    from_json,
    from_plain,
    parse_json,
    parse_toml,
    simple_json,
    to_json,
    to_plain,
    to_toml,
)
from ci_modelcache.model.lock import Lock
from ci_modelcache.model.manifest import Manifest

HEX = "ab" * 32


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@frozen
class Inner:
    name: str
    count: int


@frozen
class Outer:
    text: str
    whole: int
    flag: bool
    colour: Colour
    digest: Digest
    inners: tuple[Inner, ...]
    words: tuple[str, ...] = ()
    maybe: Digest | None = None
    mixed: dict[str, str | bool] = Factory(dict)
    texts: dict[str, str] = Factory(dict)


GOOD: dict[str, Any] = {
    "text": "é",
    "whole": 7,
    "flag": True,
    "colour": "blue",
    "digest": HEX,
    "inners": [{"name": "a", "count": 1}],
    "words": ["x", "y"],
    "maybe": None,
    "mixed": {"a": True, "b": "true"},
    "texts": {"k": "v"},
}
VALUE = Outer(
    text="é",
    whole=7,
    flag=True,
    colour=Colour.BLUE,
    digest=Digest(HEX),
    inners=(Inner("a", 1),),
    words=("x", "y"),
    maybe=None,
    mixed={"a": True, "b": "true"},
    texts={"k": "v"},
)


def test_a_value_of_every_type_is_read_and_written() -> None:
    value = from_plain(GOOD, Outer, "it")
    assert value == VALUE
    assert type(value.colour) is Colour
    assert [type(value.inners), type(value.words)] == [tuple, tuple]
    assert to_plain(value) == GOOD
    assert from_json(to_json(value), Outer, "it") == value
    assert to_json(value) == rfc8785.dumps(GOOD)


DEFECTS: dict[str, tuple[object, str]] = {
    "text": (3, "$.text: expected str, got int"),
    "text null": (None, "$.text: expected str, got null"),
    "text list": (["a"], "$.text: expected str, got list"),
    "whole": ("7", "$.whole: expected int, got str"),
    "whole bool": (True, "$.whole: expected int, got bool"),
    "whole float": (7.0, "$.whole: expected int, got float"),
    "flag": (1, "$.flag: expected bool, got int"),
    "flag text": ("true", "$.flag: expected bool, got str"),
    "colour": ("green", "$.colour: expected one of red, blue, got 'green'"),
    "colour case": ("RED", "$.colour: expected one of red, blue, got 'RED'"),
    "colour list": (["red"], "$.colour: expected str, got list"),
    "digest": ("AB" * 32, f"$.digest: not a SHA-256 in lower-case hex: '{'AB' * 32}'"),
    "digest number": (12, "$.digest: expected str, got int"),
    "inners text": ("ab", "$.inners: expected list, got str"),
    "inners object": ({"name": "a", "count": 1}, "$.inners: expected list, got object"),
    "inners null": (None, "$.inners: expected list, got null"),
    "inners of text": (["a"], "$.inners[0]: expected object, got str"),
    "inners of list": ([["a", 1]], "$.inners[0]: expected object, got list"),
    "inners deep": (
        [{"name": "a", "count": 1}, {"name": "b", "count": None}],
        "$.inners[1].count: expected int, got null",
    ),
    "inners missing": ([{"name": "a"}], "$.inners[0].count: missing"),
    "inners unknown": ([{"name": "a", "count": 1, "z": 1, "b": 2}], "$.inners[0]: unknown field b, z"),
    "words": ("xy", "$.words: expected list, got str"),
    "words of numbers": ([1], "$.words[0]: expected str, got int"),
    "maybe": ("x", "$.maybe: not a SHA-256 in lower-case hex: 'x'"),
    "maybe false": (False, "$.maybe: expected str, got bool"),
    "mixed": ({"a": 1}, "$.mixed['a']: expected str or bool, got int"),
    "mixed null": ({"a": None}, "$.mixed['a']: expected str or bool, got null"),
    "mixed list": ([], "$.mixed: expected object, got list"),
    "texts": ({"a": True}, "$.texts['a']: expected str, got bool"),
    "texts text": ("ab", "$.texts: expected object, got str"),
}


@pytest.mark.parametrize(("name", "wrong", "said"), [(name, *case) for name, case in DEFECTS.items()], ids=DEFECTS)
def test_a_field_of_another_type_is_refused_with_its_place(name: str, wrong: object, said: str) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        from_plain({**GOOD, name.partition(" ")[0]: wrong}, Outer, "the thing")
    assert str(caught.value) == f"the thing breaks its format: {said}"


@pytest.mark.parametrize(("plain", "got"), [("text", "str"), (3, "int"), (None, "null"), ([], "list")])
def test_a_document_that_is_no_object_is_refused(plain: object, got: str) -> None:
    with pytest.raises(ManifestInvalid, match=rf"^it breaks its format: \$: expected object, got {got}$"):
        from_plain(plain, Outer, "it")


def test_missing_and_unknown_fields_are_all_named_up_to_five() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        from_plain({"colour": "red", "z": 1}, Outer, "it")
    assert str(caught.value) == (
        "it breaks its format: $.text: missing; $.whole: missing; $.flag: missing; $.digest: missing; $.inners: missing; and 1 more"
    )


def test_a_defect_with_an_endless_value_makes_no_endless_message() -> None:
    with pytest.raises(ManifestInvalid) as caught:
        from_plain({**GOOD, "digest": "x" * 10_000, "colour": "y" * 10_000}, Outer, "it")
    assert len(str(caught.value)) < 500


@frozen
class Judge:
    """A class whose constructor says what it is told to say."""

    verdict: str = field()

    @verdict.validator
    def _says(self, _attribute: object, verdict: str) -> None:
        error = {"unsafe": UnsafePath, "newer": StoreUnsupported, "ref": InvalidRef, "config": ConfigError}.get(verdict)
        if error is not None:
            raise error("so be it", hint=f"about {verdict}")


@frozen
class Court:
    judges: tuple[Judge, ...]


@pytest.mark.parametrize(
    ("verdicts", "error", "message", "hint"),
    [
        (["ok", "unsafe"], UnsafePath, "the file: so be it", "about unsafe"),
        (["newer"], StoreUnsupported, "the file: so be it", "about newer"),
        (["unsafe", "newer"], StoreUnsupported, "the file: so be it", "about newer"),
        (["ref"], ManifestInvalid, "the file breaks its format: $.judges[0]: so be it", "about ref"),
        (["ok", "config"], ManifestInvalid, "the file breaks its format: $.judges[1]: so be it", "about config"),
    ],
)
def test_what_a_constructor_says_keeps_its_meaning(
    verdicts: list[str], error: type[ModelCacheError], message: str, hint: str
) -> None:
    plain = {"judges": [{"verdict": verdict} for verdict in verdicts]}
    with pytest.raises(error) as caught:
        from_plain(plain, Court, "the file")
    assert type(caught.value) is error
    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"{} {}", "Extra data"),
        (b'{"a":1,"a":1}', "an object names a member twice"),
        (b'{"b":{"a":1,"a":2}}', "an object names a member twice"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b"[Infinity]", "Infinity is no JSON number"),
        (b"[-Infinity]", "-Infinity is no JSON number"),
        (b'"\xff"', "invalid start byte"),
        (b'"\xed\xa0\x80"', "invalid continuation byte"),
        ("{}".encode("utf-16"), "invalid start byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000, "recursion"),
        (b"1" * 5000, "4300 digits"),
    ],
)
def test_what_is_no_json_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ManifestInvalid, match=f"^the marker is not JSON: .*{said}"):
        parse_json(data, "the marker")


def test_a_document_above_the_limit_is_neither_read_nor_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MAX_DOCUMENT", 30)
    assert parse_json(b'"%s"' % (b"x" * 28), "it") == "x" * 28
    with pytest.raises(ManifestInvalid, match="it has 31 bytes, at most 30 are read"):
        parse_json(b'"%s"' % (b"x" * 29), "it")
    assert len(to_json(Inner("x" * 9, 1))) == 30
    with pytest.raises(ManifestInvalid, match="Inner has 31 bytes as JSON, at most 30 are read again"):
        to_json(Inner("x" * 10, 1))


@pytest.mark.parametrize("value", [Inner("\ud800", 1), Inner("a", 2**53), Inner("a", -(2**53))])
def test_what_json_cannot_hold_is_an_error_of_ours(value: Inner) -> None:
    with pytest.raises(ManifestInvalid, match="Inner cannot be written as JSON"):
        to_json(value)


def test_what_the_simple_writer_cannot_hold_is_an_error_of_ours() -> None:
    with pytest.raises(ManifestInvalid, match="Inner cannot be written as JSON"):
        simple_json({"name": "\ud800"}, "Inner")


@pytest.mark.parametrize(
    "text", ["a = ", "a = 1\na = 2", "[[a]]\n[a]", "a = 1" + "0" * 5000, "a = 2020-13-45", "a = " + "[" * 5000]
)
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(ManifestInvalid, match=r"^modelcache\.lock is not TOML"):
        parse_toml(text, "modelcache.lock")


def test_toml_leaves_out_what_is_none_and_begins_with_its_header() -> None:
    text = to_toml(VALUE, header="one\ntwo")
    assert text.startswith("# one\n# two\n\ntext = ")
    assert "maybe" not in text
    assert from_plain(parse_toml(text, "it"), Outer, "it") == VALUE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(list(GOOD)), inner, max_size=6)
    ),
    max_leaves=20,
)
FIELDS = sorted({*GOOD, *(each.name for kind in (Manifest, Lock) for each in fields(kind))})


def _never_surprises(plain: object) -> None:
    for kind in (Outer, Manifest, Lock):
        try:
            from_plain(plain, kind, "it")
        except ModelCacheError as error:
            assert str(error)  # noqa: PT017  # either outcome is right


@given(JSON | st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_value_is_read_or_refused_and_nothing_else(plain: object) -> None:
    _never_surprises(plain)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_value_in_the_place_of_a_field_is_read_or_refused_and_nothing_else(name: str, value: object) -> None:
    _never_surprises({**GOOD, name: value})


@given(st.binary())
def test_any_bytes_are_json_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        plain = parse_json(data, "it")
    except ManifestInvalid:
        return
    assert json.loads(data) == plain


@given(st.text())
def test_any_text_is_toml_or_refused_and_nothing_else(text: str) -> None:
    try:
        assert isinstance(parse_toml(text, "it"), dict)
    except ManifestInvalid as error:
        assert str(error).startswith("it is not TOML")  # noqa: PT017  # either outcome is right


@given(st.text(), st.integers(-(2**53) + 1, 2**53 - 1))
def test_what_is_written_is_canonical_and_reads_back(text: str, number: int) -> None:
    value = Inner(text, number)
    data = to_json(value)
    assert simple_json({"name": text, "count": number}, "Inner") == data
    assert data == rfc8785.dumps({"count": number, "name": text})
    assert from_json(data, Inner, "it") == value


def test_a_float_is_never_a_whole_number() -> None:
    for number in (1.0, math.inf, math.nan, -0.0):
        with pytest.raises(ManifestInvalid, match="expected int, got float"):
            from_plain({"name": "a", "count": number}, Inner, "it")
