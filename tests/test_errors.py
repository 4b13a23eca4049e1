"""The tree of errors in the docstring is the tree of classes; every error can be shown, copied and pickled."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import TYPE_CHECKING

import pytest

from ci_modelcache import errors
from ci_modelcache.errors import (
    AlreadyExists,
    DigestMismatch,
    Misanswer,
    ModelCacheError,
    NotDecodable,
    ObjectNotFound,
    RateLimited,
    SizeMismatch,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(r"    (?P<indent>(?:[|+ ][ -] )*)(?P<name>[A-Z]\w+)(?: +(?P<code>\d+))?(?: {2,}\S.*)?")

CLASSES = {
    name: each
    for name, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, ModelCacheError) and each.__module__ == errors.__name__
}


def documented() -> Iterator[tuple[str, str, int]]:
    """Name, parent and exit code of each line of the tree; a line without a code has its parent's."""
    above: list[tuple[str, int]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        depth = len(match["indent"]) // 3
        del above[depth:]
        parent, code = above[-1] if above else ("Exception", 1)
        code = int(match["code"]) if match["code"] else code
        yield match["name"], parent, code
        above.append((match["name"], code))


def test_the_documented_tree_is_the_tree_of_classes() -> None:
    actual = {(name, each.__mro__[1].__name__, each.exit_code) for name, each in CLASSES.items()}
    assert set(documented()) == actual
    assert len(list(documented())) == len(CLASSES)


def test_the_exit_codes_are_those_that_scripts_rely_on() -> None:
    codes = {name: each.exit_code for name, each in CLASSES.items() if each.__base__ is ModelCacheError}
    assert codes == {
        "ConfigError": 2,
        "NotFound": 10,
        "Unavailable": 11,
        "AccessDenied": 12,
        "IntegrityError": 13,
        "AlreadyExists": 1,
        "NoSpace": 14,
        "DeadlineExceeded": 15,
        "Interrupted": 130,
    }


def test_every_error_but_the_internal_one_explains_itself_in_the_tree() -> None:
    explained = re.findall(r"([A-Z]\w+) +(?:\d+ +)?[a-z\d]", errors.__doc__ or "")
    assert set(CLASSES) - {"ModelCacheError"} <= set(explained)


EXAMPLES = [
    ObjectNotFound("blobs/x", "s3://bucket"),
    NotDecodable("blobs/x", "s3://bucket", why="a library is missing", hint="install it"),
    AlreadyExists("blobs/x", "s3://bucket"),
    RateLimited("slow down", retry_after=1.5, hint="wait"),
    DigestMismatch("model.bin", expected="a" * 64, actual="b" * 64, hint="fetch it again"),
    SizeMismatch("model.bin", expected=10, actual=9),
    Misanswer("a web page in place of model.bin", about="page", hint="check the address"),
    *(
        each("what happened", hint="what to do")
        for each in CLASSES.values()
        if each.__init__ is ModelCacheError.__init__
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickle_and_copy_with_all_it_knows(error: ModelCacheError) -> None:
    error.add_note("gave up after 6 attempts")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again.__notes__ == error.__notes__


def test_the_examples_are_of_every_class() -> None:
    assert {type(error).__name__ for error in EXAMPLES} == set(CLASSES)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_is_its_message_and_the_hint_stands_apart(error: ModelCacheError) -> None:
    assert str(error) == error.message
    assert error.hint is None or error.hint not in str(error)


def test_a_mismatch_says_what_was_expected_and_what_came() -> None:
    assert str(SizeMismatch("a/model.bin", expected=10, actual=9)) == "a/model.bin: expected 10 bytes, got 9"
    assert str(DigestMismatch("a", expected="0", actual="1")) == "a: expected digest 0, got 1"


def test_only_what_is_unavailable_is_worth_another_try() -> None:
    passing = {name for name, each in CLASSES.items() if issubclass(each, Unavailable)}
    assert passing == {"Unavailable", "RateLimited", "Stalled", "BrokenOff"}
    assert RateLimited("slow down").retry_after is None
