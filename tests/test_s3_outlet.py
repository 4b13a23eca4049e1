"""A stream into a bucket: the object is there whole or not at all, and after a kill only what is missing is sent."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import threading
import time
from functools import cached_property
from mmap import mmap
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest

from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    IntegrityError,
    StoreUnsupported,
    Unavailable,
)
from ci_modelcache.stores.objects import object_outlet
from ci_modelcache.stores.s3 import S3Store
from ci_modelcache.stores.s3_kept import KeptPart
from ci_modelcache.stores.s3_outlet import ObjectOutlet
from ci_modelcache.stores.s3_upload import checksum
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.frames import Compressed
from ci_modelcache.transfer.outlet import Keeping, Lasting
from ci_modelcache.transfer.retry import RetryPolicy
from tests.contracts.store import get
from tests.parts.faults import Fault, Relay, relaying
from tests.parts.servers import ADMIN, BUCKET, READER, REGION, login
from tests.test_outlets import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.transfer.outlet import Outlet
    from tests.parts.servers import S3Server

PART = 5 << 20
"""The least that stores take for a part, but the last one."""
CONTENT = random.Random(1).randbytes(2 * PART + 12_345)
PARTS = 3
PATIENCE = 100
"""Seconds after which a test says that something hangs."""
_folders = map("outlet-{}".format, itertools.count())


@pytest.fixture(params=["seaweedfs_server", "rclone_server"])
def relay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The wire to a real store, of each dialect."""
    login(monkeypatch)
    server: S3Server = request.getfixturevalue(request.param)
    with relaying(server.port) as wire:
        yield wire


@pytest.fixture
def one_relay(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The same for what no dialect matters to."""
    login(monkeypatch)
    with relaying(seaweedfs_server.port) as wire:
        yield wire


class Place:
    """A folder of a bucket, as often as it is opened; and the state of the machine that writes there."""

    def __init__(self, relay: Relay, notes: Path) -> None:
        self.relay = relay
        self.notes = notes
        self.prefix = next(_folders)

    def store(self, *, attempts: int = 3, seconds: float = 120) -> S3Store:
        retry = RetryPolicy(attempts=attempts, base=0.01, cap=0.05, deadline=Deadline(seconds))
        return S3Store(BUCKET, self.prefix, endpoint_url=self.relay.endpoint, region=REGION, retry=retry)

    def outlet(self, *, split: int | None = None, notes: Path | None = None, **how: Any) -> ObjectOutlet:
        return ObjectOutlet(self.store(**how), "x.tar", notes=notes or self.notes, split=split, part=PART)

    def content(self, key: str = "x.tar") -> bytes:
        return get(self.store(), key)

    def keys(self) -> list[str]:
        return [each.key for each in self.store().scan("")]

    def sent(self) -> int:
        """Parts that were uploaded since this was asked last."""
        count = self.relay.count("PUT", "partNumber=")
        self.relay.seen.clear()
        return count

    @cached_property
    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.relay.endpoint,
            region_name=REGION,
            aws_access_key_id=ADMIN[0],
            aws_secret_access_key=ADMIN[1],
        )

    def break_off(
        self,
        cut: int,
        error: BaseException | None = None,
        *,
        content: bytes = CONTENT,
        **how: Any,
    ) -> None:
        """Write *cut* bytes, wait until all whole parts of them have arrived, and end as if by *error*, by default Ctrl-C."""
        error = error or KeyboardInterrupt()
        with pytest.raises(type(error)), self.outlet(**how).open(len(content)) as take:  # noqa: PT012  # what is sent before it breaks off
            take(content[:cut])
            end = time.monotonic() + PATIENCE
            split = how.get("split") or len(content) + 1
            while self.arrived() < cut // split * -(-split // PART) + cut % split // PART:
                assert time.monotonic() < end
                time.sleep(0.02)
            raise error

    def arrived(self) -> int:
        """Parts of all uploads."""
        asked = ({"Bucket": BUCKET, "Key": each["Key"], "UploadId": each["UploadId"]} for each in self.uploads())
        return sum(len(self.client.list_parts(**each).get("Parts", [])) for each in asked)

    def uploads(self) -> list[dict[str, Any]]:
        """What is begun and not complete."""
        answer = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        found: list[dict[str, Any]] = answer.get("Uploads", [])
        return found


@pytest.fixture
def place(relay: Relay, tmp_path: Path) -> Place:
    return Place(relay, tmp_path / "notes")


@pytest.fixture
def one_place(one_relay: Relay, tmp_path: Path) -> Place:
    return Place(one_relay, tmp_path / "notes")


def give(outlet: Outlet, content: bytes = CONTENT, *, step: int = 300_000) -> None:
    with outlet.open(len(content)) as take:
        for start in range(0, len(content), step):
            take(content[start : start + step])


# --- what is made


def test_the_object_is_what_was_given_and_nothing_else_is_left(place: Place) -> None:
    outlet = place.outlet()
    give(outlet)
    assert (place.keys(), place.content() == CONTENT, place.sent()) == (["x.tar"], True, PARTS)
    assert (place.uploads(), list(place.notes.iterdir())) == ([], [])
    (made,) = outlet.written(hashlib.sha256(CONTENT).hexdigest())
    assert (made.name, made.size) == (f"s3://{BUCKET}/{place.prefix}/x.tar", len(CONTENT))


@pytest.mark.parametrize("size", [1, PART - 1, PART, PART + 1])
def test_of_any_size(size: int, one_place: Place) -> None:
    give(one_place.outlet(), CONTENT[:size])
    assert one_place.content() == CONTENT[:size]


def test_an_object_that_is_there_is_replaced_at_the_end(place: Place) -> None:
    give(place.outlet(), b"old")
    with place.outlet().open(len(CONTENT)) as take:
        take(CONTENT)
        assert place.content() == b"old"
    assert place.content() == CONTENT


def test_with_split_there_are_objects_and_their_sums(place: Place) -> None:
    split = PART + 5_000
    outlet = place.outlet(split=split)
    give(outlet)
    assert place.keys() == ["x.tar.000", "x.tar.001", "x.tar.002", "x.tar.sha256s"]
    pieces = [place.content(f"x.tar.{number:03}") for number in range(3)]
    assert ([len(each) for each in pieces[:2]], b"".join(pieces)) == ([split, split], CONTENT)
    lines = [f"{hashlib.sha256(each).hexdigest()}  x.tar.{number:03}\n" for number, each in enumerate(pieces)]
    lines.append(f"{hashlib.sha256(CONTENT).hexdigest()}  x.tar\n")
    assert place.content("x.tar.sha256s").decode() == "".join(lines)
    assert [each.size for each in outlet.written("")] == [len(each) for each in pieces]


def test_fewer_objects_take_the_place_of_more(one_place: Place) -> None:
    give(one_place.outlet(split=PART))
    give(one_place.outlet(split=PART), b"short")
    assert one_place.keys() == ["x.tar.000", "x.tar.sha256s"]


def test_too_many_objects_are_refused_before_anything_is_sent(one_place: Place) -> None:
    with pytest.raises(ConfigError, match="more than 1000 parts"):
        give(one_place.outlet(split=1000))
    assert one_place.relay.seen == []


def test_what_is_packed_goes_there_too(one_place: Place) -> None:
    outlet = Compressed(one_place.outlet(), frame=1 << 20)
    give(outlet)
    data = one_place.content()
    assert unpacked(data) == CONTENT
    (made,) = outlet.written("")
    assert (made.size, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())


# --- broken off, and gone on with


@pytest.mark.parametrize("cut", [1, 2 * PART + 5, len(CONTENT)])
def test_only_the_parts_that_are_missing_are_sent(cut: int, place: Place) -> None:
    place.break_off(cut)
    assert place.keys() == []
    sent = place.sent()
    give(place.outlet())
    assert sent == cut // PART
    assert place.sent() == PARTS - sent
    assert place.content() == CONTENT
    assert place.uploads() == []


def test_of_split_objects_none_is_there_before_all_are_and_then_only_what_is_missing_is_sent(place: Place) -> None:
    split = PART + 5_000
    place.break_off(split + PART, split=split)
    assert (place.keys(), len(place.uploads())) == ([], 2)
    assert place.sent() == 3, "the two of the first object, and one of the second"
    give(place.outlet(split=split))
    assert place.sent() == 2
    assert b"".join(place.content(f"x.tar.{number:03}") for number in range(3)) == CONTENT
    assert place.uploads() == []


def test_a_part_that_is_wrong_there_is_sent_again(one_place: Place) -> None:
    """Where the store takes other bytes for a part, which rclone does not."""
    one_place.break_off(2 * PART)
    (upload,) = one_place.uploads()
    one_place.client.upload_part(
        Bucket=BUCKET,
        Key=upload["Key"],
        UploadId=upload["UploadId"],
        PartNumber=2,
        Body=bytes(PART),
        ChecksumSHA256=checksum(bytes(PART)),
    )
    one_place.sent()
    give(one_place.outlet())
    # SeaweedFS has both then, and shows the one or the other; what it is told at the end is the right one.
    assert 1 <= one_place.sent() <= 2
    assert one_place.content() == CONTENT


@pytest.mark.parametrize("size", [PART, len(CONTENT)])
def test_of_another_stream_nothing_is_taken_over(size: int, place: Place) -> None:
    """A shorter one too: some stores do not complete an upload that has more parts than they are told."""
    place.break_off(2 * PART)
    other = random.Random(2).randbytes(size)
    place.sent()
    give(place.outlet(), other)
    assert place.sent() == -(-size // PART)
    assert place.content() == other
    assert place.uploads() == []


def test_an_upload_that_a_lifecycle_rule_removed_is_begun_anew(place: Place) -> None:
    place.break_off(2 * PART)
    (upload,) = place.uploads()
    place.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    place.sent()
    give(place.outlet())
    assert (place.sent(), place.content() == CONTENT) == (PARTS, True)


def test_a_store_that_takes_no_other_bytes_for_a_part_is_left_without_the_upload(one_place: Place) -> None:
    """Else every try would end in the same way."""
    one_place.break_off(2 * PART)
    denied = b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
    one_place.relay.faults += [
        Fault(
            "answer", "GET", "uploadId=", status=200, body=listing({1: ("", checksum(CONTENT[:PART])), 2: ("x", "")})
        ),
        Fault("answer", "PUT", "partNumber=2", status=501, body=denied),
    ]
    with pytest.raises(StoreUnsupported) as caught:
        give(one_place.outlet())
    assert "run the same command again" in str(caught.value.hint)
    assert one_place.uploads() == []
    give(one_place.outlet())
    assert one_place.content() == CONTENT


def test_who_may_not_look_at_his_parts_sends_all_again(one_place: Place) -> None:
    one_place.break_off(2 * PART)
    denied = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    one_place.relay.faults.append(Fault("answer", "GET", "uploadId=", status=403, body=denied))
    one_place.sent()
    give(one_place.outlet())
    assert (one_place.sent(), one_place.content() == CONTENT) == (PARTS, True)


def listing(parts: dict[int, tuple[str, str]]) -> bytes:
    """The answer of a store that lists parts of `CONTENT` with those ETags and checksums."""
    lines = [
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{PART}</Size>"
        f"{f'<ChecksumSHA256>{sha256}</ChecksumSHA256>' if sha256 else ''}</Part>"
        for number, (etag, sha256) in parts.items()
    ]
    return f"<ListPartsResult><UploadId>u</UploadId><IsTruncated>false</IsTruncated>{''.join(lines)}</ListPartsResult>".encode()


@pytest.mark.parametrize(
    ("etag", "sha256", "right"),
    [
        ('"9a0364b9e99bb480dd25e1f0284c8555"', None, True),
        ("9a0364b9e99bb480dd25e1f0284c8555", None, True),
        ('"0123456789abcdef0123456789abcdef"', None, False),
        ("", None, False),
        ('"0123456789abcdef0123456789abcdef"', checksum(b"content"), True),
        ('"9a0364b9e99bb480dd25e1f0284c8555"', checksum(b"other"), False),
    ],
)
def test_a_part_is_known_by_its_checksum_or_else_by_an_etag_that_is_its_md5(
    etag: str, sha256: str | None, *, right: bool
) -> None:
    """It is the MD5 with most stores, but not where a key of the customer encrypts it: then all is sent again."""
    with mmap(-1, 7) as data:
        data.write(b"content")
        assert KeptPart(7, etag, sha256).is_of(data) == right
        assert not KeptPart(8, etag, sha256).is_of(data)


def test_a_listed_checksum_counts_more_than_an_etag(one_place: Place) -> None:
    one_place.break_off(2 * PART)
    (upload,) = one_place.uploads()
    found = one_place.client.list_parts(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])["Parts"]
    etags = {part["PartNumber"]: part["ETag"] for part in found}
    right = {number: checksum(CONTENT[(number - 1) * PART : number * PART]) for number in etags}
    told = {
        1: (etags[1], right[1]),
        2: (etags[2], checksum(b"other")),
    }
    one_place.relay.faults.append(Fault("answer", "GET", "uploadId=", status=200, body=listing(told)))
    one_place.sent()
    give(one_place.outlet())
    assert (one_place.sent(), one_place.content() == CONTENT) == (PARTS - 1, True)


# --- who goes on with what


def test_another_machine_begins_anew_and_so_does_a_copy_of_the_note(one_place: Place, tmp_path: Path) -> None:
    """Two that go on with one upload could mix their parts: not every store notices."""
    one_place.break_off(2 * PART)
    shutil.copytree(one_place.notes, tmp_path / "copy")
    for notes in (tmp_path / "other", tmp_path / "copy"):
        one_place.sent()
        give(one_place.outlet(notes=notes))
        assert (one_place.sent(), one_place.content() == CONTENT) == (PARTS, True)


def test_of_two_at_the_same_time_each_has_an_upload_of_its_own(one_place: Place) -> None:
    one_place.break_off(2 * PART)
    other = bytes(reversed(CONTENT))
    with one_place.outlet().open(len(CONTENT)) as take:
        take(CONTENT[: 2 * PART])
        give(one_place.outlet(), other)
        assert one_place.content() == other
        take(CONTENT[2 * PART :])
    assert one_place.content() == CONTENT
    assert (one_place.uploads(), list(one_place.notes.iterdir())) == ([], [])


@pytest.mark.parametrize("note", [b"{", b"[]", b"\xff" * 5000])
def test_a_note_that_cannot_be_read_is_no_note(note: bytes, one_place: Place) -> None:
    one_place.break_off(PART)
    (path,) = one_place.notes.iterdir()
    path.write_bytes(note)
    give(one_place.outlet())
    assert one_place.content() == CONTENT


def test_a_note_names_the_upload_and_no_secret(one_place: Place) -> None:
    one_place.break_off(PART)
    (path,) = one_place.notes.iterdir()
    (upload,) = one_place.uploads()
    assert json.loads(path.read_bytes())["words"] == {"x.tar": f"sha256 {upload['UploadId']}"}
    assert not any(each.encode() in path.read_bytes() for each in ADMIN)


def test_without_a_folder_for_notes_it_works_and_leaves_nothing_that_nobody_would_find(
    one_place: Place, tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("a file")
    one_place.break_off(2 * PART)
    assert one_place.uploads() == []
    one_place.sent()
    give(one_place.outlet())
    assert (one_place.sent(), one_place.content() == CONTENT) == (PARTS, True)


# --- failures


@pytest.mark.parametrize("error", [Unavailable("gone"), DeadlineExceeded("late"), KeyboardInterrupt(), SystemExit()])
def test_what_may_pass_keeps_what_was_sent_and_says_so(error: BaseException, one_place: Place) -> None:
    one_place.break_off(2 * PART, error)
    assert "the same command goes on there" in "".join(error.__notes__)
    assert len(one_place.uploads()) == 1


@pytest.mark.parametrize("split", [None, PART])
def test_wrong_bytes_leave_nothing(split: int | None, place: Place) -> None:
    give(place.outlet(split=split), b"old")
    before = place.keys()
    place.break_off(2 * PART, IntegrityError("wrong"), split=split)
    assert (place.keys(), place.uploads(), list(place.notes.iterdir())) == (before, [], [])


def test_a_part_that_fails_is_sent_again_and_lost_answers_do_no_harm(one_place: Place) -> None:
    one_place.relay.faults += [
        Fault("answer", "PUT", "partNumber=2", status=503),
        Fault("lose", "PUT", "partNumber=3"),
        Fault("lose", "POST", "uploadId="),
    ]
    give(one_place.outlet())
    assert one_place.content() == CONTENT
    assert one_place.uploads() == []


def test_a_part_that_keeps_failing_ends_it_and_the_next_one_sends_only_what_is_missing(one_place: Place) -> None:
    one_place.relay.faults.append(Fault("answer", "PUT", "partNumber=2", times=100))
    with pytest.raises(Unavailable) as caught:
        give(one_place.outlet())
    assert "goes on there" in "".join(caught.value.__notes__)
    one_place.relay.faults.clear()
    one_place.sent()
    give(one_place.outlet())
    assert 0 < one_place.sent() <= PARTS
    assert one_place.content() == CONTENT


def test_a_store_that_does_not_answer_costs_no_more_than_the_deadline(one_place: Place) -> None:
    one_place.relay.faults.append(Fault("hold", "PUT", "partNumber=", times=100))
    try:
        with pytest.raises(DeadlineExceeded):
            give(one_place.outlet(seconds=3))
    finally:
        one_place.relay.released.set()


def test_who_may_only_read_is_refused(one_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch, READER)
    with pytest.raises(AccessDenied):
        give(one_place.outlet())


def test_memory_is_that_of_four_parts(one_place: Place) -> None:
    """While nothing arrives nothing more is taken."""
    taken = 0
    one_place.relay.faults.append(Fault("hold", "PUT", "partNumber=", times=100))
    outlet = ObjectOutlet(one_place.store(), "x.tar", notes=one_place.notes)

    def write() -> None:
        nonlocal taken
        with outlet.open(160 << 20) as take:
            for _ in range(160):
                take(bytes(1 << 20))
                taken += 1

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(3)
    before = taken
    one_place.relay.released.set()
    thread.join(PATIENCE)
    assert before <= 64
    assert taken == 160
    (found,) = one_place.store().scan("")
    assert found.size == 160 << 20


# --- what a user writes


@pytest.mark.parametrize(
    "url", ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/a b.tar", "s3:///x.tar", "s3://b/x/"]
)
def test_what_is_no_object_is_refused(url: str, tmp_path: Path) -> None:
    def nobody(_url: str) -> S3Store:
        pytest.fail("a store was opened")

    with pytest.raises(ConfigError, match="not an object of a bucket"):
        object_outlet(url, open_store=nobody, notes=tmp_path)


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("s3://bucket/x.tar", "s3://bucket"),
        ("s3://bucket/a/b/x.tar?region=eu-west-1", "s3://bucket/a/b?region=eu-west-1"),
    ],
)
def test_the_folder_of_an_object_is_opened_as_a_store(url: str, store: str, one_place: Place) -> None:
    opened: list[str] = []

    def open_store(url: str) -> S3Store:
        opened.append(url)
        return one_place.store()

    outlet = object_outlet(url, open_store=open_store, notes=one_place.notes)
    assert (opened, isinstance(outlet, Lasting), isinstance(outlet, Keeping)) == ([store], True, False)
    give(outlet, b"content")
    assert one_place.content() == b"content"
