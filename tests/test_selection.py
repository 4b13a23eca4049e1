"""Patterns mean what they mean to huggingface_hub, and a part of a snapshot never has the identity of the whole."""

from __future__ import annotations

import hashlib

import pytest
from huggingface_hub.utils._paths import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import ConfigError
from ci_modelcache.model.selection import ALL, Selection

PATHS = ["config.json", "a.bin", "onnx/a.bin", "onnx/deep/b.onnx", "Config.JSON", "[x].txt", "a b.txt", "é.json"]
PATTERN = st.sampled_from(
    ["*", "*.json", "*.bin", "onnx/", "onnx/*", "o*x", "config.json", "?.bin", "[[]x].txt", "[a-c]*", "é.*", "x"]
)


@given(include=st.lists(PATTERN, max_size=3), exclude=st.lists(PATTERN, max_size=3))
def test_patterns_choose_what_huggingface_hub_chooses(include: list[str], exclude: list[str]) -> None:
    chosen = list(filter_repo_objects(PATHS, allow_patterns=include or None, ignore_patterns=exclude or None))
    assert [path for path in PATHS if Selection(tuple(include), tuple(exclude)).selects(path)] == chosen


def test_everything_is_called_all_and_selects_everything() -> None:
    assert Selection.everything().id == ALL == "all"
    assert all(Selection.everything().selects(path) for path in PATHS)


def test_the_id_is_16_digits_of_the_sha256_of_the_documented_text() -> None:
    text = b'{"exclude":["*.bin"],"include":["*.json","onnx/*"]}'
    assert Selection(("onnx/", "*.json", "onnx/*"), ("*.bin",)).id == hashlib.sha256(text).hexdigest()[:16]


@given(st.lists(st.text(min_size=1), min_size=1), st.randoms(use_true_random=False))
def test_order_and_repetition_of_patterns_do_not_matter(patterns: list[str], random: object) -> None:
    shuffled = [*patterns, patterns[0]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' Random
    assert Selection(tuple(shuffled)) == Selection(tuple(patterns))


def test_what_is_included_and_what_is_excluded_are_two_things() -> None:
    assert Selection(include=("a",)).id != Selection(exclude=("a",)).id


def test_a_pattern_typed_on_a_mac_names_the_same_file() -> None:
    decomposed = Selection(("cafe\u0301.json",))
    assert decomposed.selects("café.json")
    assert decomposed.id == Selection(("café.json",)).id


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ConfigError, match="an empty pattern selects no file") as caught:
        Selection(exclude=("",))
    assert "unset variable" in str(caught.value.hint)


def test_one_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError, match=r"got the text '\*.json'"):
        Selection("*.json")
