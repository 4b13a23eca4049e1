"""The small documents of format 1: read strictly, and a later store is refused before anything else in it is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci_modelcache.cache.records import (
    FORMAT,
    AnswerRecord,
    CondemnedRecord,
    HeadRecord,
    IntentRecord,
    Marker,
    RefRecord,
)
from ci_modelcache.errors import ManifestInvalid, StoreUnsupported
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.document import from_json, to_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = Digest.of(b"")
WHERE = "s3://bucket/modelcache.json"

MARKER = Marker("0" * 32, {"create_only": "atomic", "deletes": True}, format=1, min_reader=1, features=())
RECORDS: list[tuple[object, bytes]] = [
    (
        MARKER,
        (
            b'{"capabilities":{"create_only":"atomic","deletes":true},"features":[],"format":1,'
            b'"id":"00000000000000000000000000000000","min_reader":1}'
        ),
    ),
    (
        RefRecord(DIGEST, "1" * 32, {"source": "https://huggingface.co"}),
        (
            b'{"manifest":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",'
            b'"provenance":{"source":"https://huggingface.co"},"write_id":"11111111111111111111111111111111"}'
        ),
    ),
    (
        HeadRecord("main", COMMIT, 1_790_000_000, "hub"),
        b'{"commit":"0123456789abcdef0123456789abcdef01234567","observed_at":1790000000,"origin":"hub","revision":"main"}',
    ),
    (
        AnswerRecord("main", COMMIT, 'W/"a27-x"', "Wed, 21 Oct 2015 07:28:00 GMT", 1_790_000_000),
        (
            b'{"commit":"0123456789abcdef0123456789abcdef01234567","etag":"W/\\"a27-x\\"",'
            b'"last_modified":"Wed, 21 Oct 2015 07:28:00 GMT","observed_at":1790000000,"revision":"main"}'
        ),
    ),
    (
        IntentRecord((DIGEST,), "1" * 32),
        (
            b'{"digests":["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],'
            b'"write_id":"11111111111111111111111111111111"}'
        ),
    ),
    (CondemnedRecord(("blobs/sha256/e3/b0/x",)), b'{"keys":["blobs/sha256/e3/b0/x"]}'),
]
KINDS = [type(record).__name__ for record, _ in RECORDS]


def _with(**fields: Any) -> bytes:
    return json.dumps(json.loads(to_json(MARKER)) | fields).encode()


@pytest.mark.parametrize(("record", "document"), RECORDS, ids=KINDS)
def test_a_record_is_exactly_these_bytes_and_is_read_back(record: object, document: bytes) -> None:
    assert to_json(record) == document
    assert from_json(document, type(record), "it") == record


@pytest.mark.parametrize(("record", "document"), RECORDS, ids=KINDS)
def test_an_unknown_field_and_each_missing_one_are_refused(record: object, document: bytes) -> None:
    fields = json.loads(document)
    with pytest.raises(ManifestInvalid, match="unknown field more"):
        from_json(json.dumps(fields | {"more": 1}).encode(), type(record), "it")
    for name in fields:
        rest = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(ManifestInvalid, match=rf"\.{name}: missing"):
            from_json(json.dumps(rest).encode(), type(record), "it")


@pytest.mark.parametrize("commit", ["main", COMMIT.upper(), COMMIT[:-1], "../../../blobs/x", ""])
def test_a_head_that_names_no_commit_is_refused(commit: str) -> None:
    document = json.dumps({"commit": commit, "observed_at": 1, "origin": "hub", "revision": "main"}).encode()
    with pytest.raises(ManifestInvalid, match="not a commit of 40 hex digits"):
        from_json(document, HeadRecord, "it")


def test_the_marker_of_this_format_is_read() -> None:
    assert Marker.from_json(to_json(MARKER), WHERE) == MARKER


def test_a_store_that_needs_a_later_reader_is_refused_whatever_else_its_marker_says() -> None:
    for marker in (
        _with(format=2, min_reader=2),
        _with(format=2, min_reader=2, compression={"unknown": "here"}),
        _with(min_reader=99),
        b'{"format":2}',
    ):
        with pytest.raises(StoreUnsupported, match="this version reads 1") as caught:
            Marker.from_json(marker, WHERE)
        assert caught.value.exit_code == 2
        assert "upgrade" in str(caught.value.hint)
        assert WHERE in str(caught.value)


def test_a_store_of_a_later_format_that_this_reader_suffices_for_is_read() -> None:
    assert Marker.from_json(_with(format=2, min_reader=1), WHERE).format == 2 > FORMAT


@pytest.mark.parametrize(
    "marker",
    [
        b"",
        b"null",
        b"[]",
        b"<html>502 Bad Gateway</html>",
        b'{"format":1',
        b'{"format":"1","min_reader":"1"}',
        _with(format="1"),
        _with(format=True),
        _with(min_reader=None),
        _with(features="leaves"),
        _with(capabilities=[]),
        _with(capabilities={"create_only": 1}),
        _with(more=1),
    ],
)
def test_a_marker_that_breaks_its_format_is_no_marker(marker: bytes) -> None:
    with pytest.raises(ManifestInvalid, match=r"s3://bucket/modelcache\.json"):
        Marker.from_json(marker, WHERE)
