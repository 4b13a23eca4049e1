"""How fresh an answer is: what is asked again, when, in how many bytes, and what may not be taken for an answer."""

from __future__ import annotations

import logging
import re
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, evolve

from ci_modelcache.cache import keys
from ci_modelcache.cache.answers import LONGEST, keep_answer, known_answer
from ci_modelcache.cache.records import SAVED
from ci_modelcache.cli.main import main
from ci_modelcache.demo.exchange import Reply
from ci_modelcache.demo.faults import Planned
from ci_modelcache.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    FileNotFound,
    IntegrityError,
    NotFound,
    RateLimited,
    RepositoryNotFound,
    RevisionNotFound,
    SnapshotNotFound,
    Stalled,
    Unavailable,
)
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.lock import Lock, LockedModel
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.model.selection import Selection
from ci_modelcache.sources.protocol import Meaning
from ci_modelcache.sources.sparing import Sparing
from ci_modelcache.transfer.refusals import LASTING, Refusals
from ci_modelcache.verbs.resolve import Resolution, note_head, resolve, resolve_now
from tests.parts.hub import TINY
from tests.parts.hub_faults import HangUp, Silence, Status, WithHeaders, api
from tests.parts.stores import Failing, touching
from tests.parts.users import unprivileged
from tests.parts.verbs import REPO, SECRET, Bench, files_in, flipped, pinned, spoil, swap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ci_modelcache.demo.exchange import Request, Respond
    from ci_modelcache.sources.hub import HubEndpoint

REF = ModelRef(REPO)
TTL = 100.0
SIZE = sum(map(len, TINY.values()))
GONE = "f" * 40


@define(eq=False)
class Dated(Planned):
    """Instead of an ETag a ``Last-Modified``, and 304 to whoever sends that very date back."""

    modified: str = ""

    def act(self, request: Request, respond: Respond) -> Reply:
        if request.headers.get("If-Modified-Since") == self.modified:
            return Reply(304, {"Content-Length": "0"}, lambda: iter(()))
        reply = respond(request)
        kept = {name: value for name, value in reply.headers.items() if name != "ETag"}
        return evolve(reply, headers={**kept, "Last-Modified": self.modified})


@define(eq=False)
class Dripping(Planned):
    """The answer byte by byte, 20 a second."""

    def act(self, request: Request, respond: Respond) -> Reply:
        reply = respond(request)
        data = b"".join(reply.body())

        def drip() -> Iterator[bytes]:
            for byte in data:
                if request.stopping.wait(0.05):
                    return
                yield bytes([byte])

        return evolve(reply, body=drip)


def ask(bench: Bench, **options: Any) -> Resolution:
    """What ``main`` means by way of the store, which is then told."""
    cache, upstream = bench.cache(), bench.upstream(**options)
    found = resolve(REF, cache=cache, upstream=upstream, revision_ttl=TTL)
    note_head(REF, found, cache=cache, host=bench.host)
    return found


def statuses(bench: Bench) -> list[int]:
    """The statuses of all answers since the last call."""
    found = [seen.status for seen in bench.hub.requests()]
    bench.hub.forget()
    return found


# Revalidation


def test_after_the_ttl_the_hub_says_that_nothing_changed_and_the_branch_is_believed_again(bench: Bench) -> None:
    assert ask(bench) == Resolution(bench.commit, "authority")
    bench.time += TTL
    assert ask(bench) == Resolution(bench.commit, "store")
    assert statuses(bench) == [200]
    for _ in range(2):
        bench.time += TTL + 1
        assert ask(bench) == Resolution(bench.commit, "authority")
        (seen,) = bench.hub.requests()
        assert (seen.status, seen.sent) == (304, 0)
        assert bench.cache().head(bench.host, REF).observed_at == int(bench.time)
        assert ask(bench).anchor == "store"
        bench.hub.forget()


def test_a_branch_that_moved_is_answered_in_full_and_recognised_from_then_on(bench: Bench) -> None:
    ask(bench)
    bench.time += TTL + 1
    bench.repository.commit({**TINY, "config.json": b"{}"})
    assert ask(bench) == Resolution(bench.commit, "authority")
    bench.time += TTL + 1
    assert ask(bench) == Resolution(bench.commit, "authority")
    assert statuses(bench) == [200, 200, 304]


def test_fetch_asks_whether_anything_changed_however_fresh_the_store_is(bench: Bench) -> None:
    bench.fetch()
    bench.hub.forget()
    assert bench.fetch().result == "hit"
    assert statuses(bench) == [304]


def test_what_was_not_modified_is_what_the_remembered_answer_said_not_what_the_head_says(bench: Bench) -> None:
    """Two writers can leave the head of one and the answer of the other: the ETag stands for its own commit alone."""
    ask(bench)
    bench.cache().put_head(bench.host, REF, "1" * 40, "hub")
    bench.time += TTL + 1
    assert ask(bench) == Resolution(bench.commit, "authority")
    assert statuses(bench) == [200, 304]


def test_a_server_that_sends_dates_is_asked_by_date_but_for_one_too_young_to_tell(bench: Bench) -> None:
    fault = Dated(when=api, modified=formatdate(time.time() - 3600, usegmt=True))
    bench.hub.faults.append(fault)
    ask(bench)
    bench.time += TTL + 1
    assert ask(bench) == Resolution(bench.commit, "authority")
    assert statuses(bench) == [200, 304]
    fault.modified = formatdate(time.time() - 5, usegmt=True)
    for _ in range(2):
        bench.time += TTL + 1
        ask(bench)
    assert statuses(bench) == [200, 200]


def test_a_date_beyond_all_years_is_no_date(bench: Bench) -> None:
    bench.hub.faults.append(Dated(when=api, modified="Wed, 01 Jan 99999999999999999999 00:01:00 GMT"))
    assert ask(bench) == Resolution(bench.commit, "authority")


def test_an_answer_is_recognised_for_a_day_and_then_asked_for_in_full(bench: Bench) -> None:
    """A date does not change when a branch moves back, and a broken proxy says "as before" for ever."""
    ask(bench)
    bench.time += LONGEST
    ask(bench)
    bench.time += TTL + 1
    ask(bench)
    bench.time += TTL + 1
    ask(bench)
    assert statuses(bench) == [200, 304, 200, 304]
    bench.time -= 2 * LONGEST
    ask(bench)
    assert statuses(bench) == [200]


@pytest.mark.parametrize("etag", [None, "", "bare", '"a b"', '"' + "x" * 300 + '"', '"\u00e9"'])
def test_an_answer_that_cannot_be_recognised_is_asked_for_in_full(bench: Bench, etag: str | None) -> None:
    bench.hub.faults.append(WithHeaders({"ETag": etag}, when=api))
    ask(bench)
    bench.time += TTL + 1
    ask(bench)
    assert statuses(bench) == [200, 200]
    assert list(bench.disk.scan("answers/")) == []


def test_the_answer_of_another_server_to_which_we_were_redirected_is_not_recognised_here(bench: Bench) -> None:
    bench.hub.rename("acme/old", REPO)
    moved = bench.upstream().resolve(ModelRef("acme/old"))
    assert moved.etag  # a redirect within one Hub
    assert moved == bench.upstream().resolve(REF)


def test_a_304_that_nobody_asked_for_is_no_answer(bench: Bench) -> None:
    bench.hub.faults.append(Status(status=304, when=api))
    for known in (None, Meaning(bench.commit)):
        with pytest.raises(IntegrityError):
            bench.upstream().resolve(REF, known=known)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"commit":"main"}'])
def test_a_remembered_answer_that_cannot_be_read_costs_one_full_answer(bench: Bench, data: bytes) -> None:
    ask(bench)
    swap(bench.disk.root / keys.answer(bench.host, REF.type, REF.repo, REF.revision), data)
    bench.time += TTL + 1
    assert ask(bench) == Resolution(bench.commit, "authority")
    bench.time += TTL + 1
    ask(bench)
    assert statuses(bench) == [200, 200, 304]


def test_an_answer_about_another_revision_is_not_taken(bench: Bench) -> None:
    cache = bench.cache()
    keep_answer(cache, bench.host, REF.at("v" * 200), Meaning(GONE, '"x"'))
    key = keys.answer(bench.host, REF.type, REF.repo, "main")
    (other,) = (info.key for info in bench.disk.scan("answers/"))
    bench.disk.path(key).parent.mkdir(parents=True, exist_ok=True)
    bench.disk.path(key).write_bytes(bench.disk.path(other).read_bytes())
    assert known_answer(cache, bench.host, REF) is None
    assert known_answer(cache, bench.host, REF.at("v" * 200)) == Meaning(GONE, '"x"')


def test_a_reader_that_may_see_heads_alone_asks_in_full(bench: Bench) -> None:
    ask(bench)
    bench.store = Failing(bench.disk, lambda: AccessDenied("no"), touching("answers/"))
    bench.time += TTL + 1
    found = resolve(REF, cache=bench.cache(), upstream=bench.upstream(), revision_ttl=TTL)
    assert found == Resolution(bench.commit, "authority")
    assert statuses(bench) == [200, 200]


# Patience


def known_and_old(bench: Bench) -> None:
    ask(bench)
    bench.time += TTL + 1
    bench.hub.forget()


def test_a_hub_that_is_down_is_tried_twice_when_the_store_knows_and_six_times_when_not(bench: Bench) -> None:
    known_and_old(bench)
    bench.hub.faults.append(Status(when=api))
    assert ask(bench, attempts=6) == Resolution(bench.commit, "store", stale=True)
    assert statuses(bench) == [503] * 2
    with pytest.raises(Unavailable):
        resolve(REF.at("v1.0"), cache=bench.cache(), upstream=bench.upstream(attempts=6), revision_ttl=TTL)
    assert statuses(bench) == [503] * 6
    with pytest.raises(Unavailable):
        resolve_now(REF, cache=bench.cache(), upstream=bench.upstream(attempts=6))
    assert statuses(bench) == [503] * 6


def test_who_asks_us_to_wait_longer_than_that_is_not_waited_for_and_it_is_said(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    known_and_old(bench)
    bench.hub.faults.append(Status(status=429, headers={"Retry-After": "290"}, when=api))
    with caplog.at_level(logging.WARNING):
        assert ask(bench, seconds=1000) == Resolution(bench.commit, "store", stale=True)
    assert (statuses(bench), bench.pauses) == ([429], [])
    assert "answered 429" in caplog.text
    assert "it asks to wait 4m50s" in caplog.text
    with pytest.raises(RateLimited):
        bench.upstream(seconds=20).resolve(REF, patience=10)


def test_a_hub_that_only_trickles_is_left_when_patience_ends_and_the_deadline_does_not(bench: Bench) -> None:
    bench.hub.faults.append(Dripping(when=api))
    with pytest.raises(Stalled, match=r"no answer within 0\.2s"):
        bench.upstream().resolve(REF, patience=0.2)
    with pytest.raises(DeadlineExceeded):
        bench.upstream(seconds=0.2).resolve(REF, patience=None)


def test_a_hub_that_is_silent_is_left_when_patience_ends(bench: Bench) -> None:
    bench.hub.faults.append(Silence(when=api))
    with pytest.raises(Unavailable):
        bench.upstream().resolve(REF, patience=0.2)


def test_asking_takes_at_most_a_quarter_of_the_time_that_is_left(bench: Bench) -> None:
    known_and_old(bench)
    bench.hub.faults.append(Status(status=429, headers={"Retry-After": "6"}, when=api))
    assert ask(bench, seconds=20).stale
    assert bench.pauses == []
    assert ask(bench, seconds=100).stale
    assert [6 <= pause < 10 for pause in bench.pauses] == [True]


# No authority at all


def dead(bench: Bench) -> HubEndpoint:
    """The Hub, gone for good."""
    bench.hub.faults.append(HangUp())
    bench.hub.faults.append(HangUp(when=api))
    return bench.upstream(attempts=2)


def test_without_an_authority_a_pinned_commit_that_is_stored_is_restored_and_nobody_is_asked(bench: Bench) -> None:
    bench.fetch()
    ref, upstream = pinned(bench), dead(bench)
    bench.hub.forget()
    for head in (bench.disk.root / "heads").rglob("*.json"):
        head.unlink()
    assert bench.restore(ref, upstream=upstream).result == "hit"
    assert files_in(bench.folder / "model") == TINY
    assert bench.hub.requests() == []
    with pytest.raises(Unavailable):
        bench.restore(upstream=upstream)


def test_without_an_authority_a_lock_and_the_blobs_suffice_and_nobody_is_asked(bench: Bench) -> None:
    report = bench.fetch()
    manifest = bench.cache().manifest_named(Digest(report.manifest))
    lock = Lock((LockedModel.of(manifest, revision="main", selection=Selection()),))
    for folder in ("refs", "heads", "manifests", "answers"):
        for path in (bench.disk.root / folder).rglob("*"):
            if path.is_file():
                path.unlink()
    upstream = dead(bench)
    bench.hub.forget()
    restored = bench.restore(upstream=upstream, locks=(lock,))
    assert (restored.result, restored.anchor, restored.digest) == ("hit", "lock", report.digest)
    assert bench.hub.requests() == []


# Refusals


def sparing(bench: Bench, *, believe: bool = True, token: str = "") -> Sparing:
    refusals = Refusals(bench.folder / "state" / "refusals", clock=lambda: bench.time, believe=believe)
    return Sparing(bench.upstream(token or None), refusals, secret=token)


def questions(upstream: Sparing) -> dict[type[NotFound], Any]:
    return {
        RevisionNotFound: lambda: upstream.resolve(REF.at("v9")),
        RepositoryNotFound: lambda: upstream.resolve(ModelRef("acme/nope")),
        NotFound: lambda: upstream.listing(REF, GONE),
    }


@pytest.mark.parametrize("kind", [RevisionNotFound, RepositoryNotFound, NotFound])
def test_a_definite_no_is_asked_for_once_a_minute_and_says_how_old_it_is(bench: Bench, kind: type[NotFound]) -> None:
    def refused() -> NotFound:
        with pytest.raises(kind) as caught:
            questions(sparing(bench, token=SECRET))[kind]()
        return caught.value

    first = refused()
    bench.time += 12
    again = refused()
    assert type(again) is type(first)
    assert str(again) == f"{first} (remembered from 12 s ago)"
    assert str(again.hint).startswith(f"{first.hint}; it is asked again in 48 s, or at once with --force-download")
    assert statuses(bench) == [404]
    bench.time += LASTING - 12
    assert "remembered" not in str(refused())
    assert statuses(bench) == [404]
    assert len(list((bench.folder / "state" / "refusals").iterdir())) == 1


def test_who_forces_asks_again_and_what_is_there_after_all_is_forgotten_to_be_missing(bench: Bench) -> None:
    with pytest.raises(RevisionNotFound):
        sparing(bench).resolve(REF.at("v9"))
    bench.repository.tags["v9"] = bench.commit
    with pytest.raises(RevisionNotFound, match="remembered"):
        sparing(bench).resolve(REF.at("v9"))
    assert sparing(bench, believe=False).resolve(REF.at("v9")).commit == bench.commit
    assert sparing(bench).resolve(REF.at("v9")).commit == bench.commit


def test_what_one_token_is_refused_another_may_have(bench: Bench) -> None:
    bench.repository.private = True
    bench.repository.readers.add("reader")
    bench.hub._routes.tokens["hf_other"] = "other"
    with pytest.raises(RepositoryNotFound):
        sparing(bench, token="hf_other").resolve(REF)
    assert sparing(bench, token=SECRET).resolve(REF).commit == bench.commit
    for path in (bench.folder / "state").rglob("*"):
        assert path.is_dir() or b"hf_other" not in path.read_bytes()


def test_what_is_no_definite_no_is_asked_again(bench: Bench) -> None:
    """401 and 403 may be mended by now; a bare 404 may be a mirror that has not got it yet."""
    for fault in (
        Status(status=401, when=api),
        Status(status=403, code="GatedRepo", when=api),
        Status(status=404, when=api),
        Status(status=401, code="RepoNotFound", when=api),
        Status(status=410, when=api),
    ):
        bench.hub.faults[:] = [fault]
        for _ in range(2):
            with pytest.raises((AccessDenied, RepositoryNotFound)):
                sparing(bench).resolve(REF)
        assert statuses(bench) == [fault.status] * 2
    bench.hub.faults.clear()
    assert not (bench.folder / "state" / "refusals").exists()


@pytest.mark.parametrize(
    ("code", "commit", "asked"),
    [("EntryNotFound", "right", 1), ("EntryNotFound", GONE, 2), ("EntryNotFound", None, 2), (None, "right", 2)],
)
def test_that_a_file_is_missing_is_remembered_when_code_and_commit_say_so(
    bench: Bench, code: str | None, commit: str | None, asked: int
) -> None:
    said = bench.commit if commit == "right" else commit
    headers = {} if said is None else {"X-Repo-Commit": said}
    file = bench.upstream().listing(REF, bench.commit).files[0]
    bench.hub.forget()
    bench.hub.faults.append(Status(status=404, code=code, headers=headers))
    for _ in range(2):
        with pytest.raises(FileNotFound), sparing(bench).open(REF, bench.commit, file):
            raise AssertionError
    assert statuses(bench) == [404] * asked
    bench.hub.faults.clear()
    with sparing(bench, believe=False).open(REF, bench.commit, file, start=1, stop=3) as pieces:
        assert b"".join(pieces) == TINY[file.path][1:3]
    with sparing(bench).open(REF, bench.commit, file) as pieces:
        assert b"".join(pieces) == TINY[file.path]


def test_what_is_spared_is_the_upstream_in_all_else(bench: Bench) -> None:
    spared, upstream = sparing(bench), bench.upstream()
    assert (spared.url, spared.host) == (upstream.url, upstream.host)
    assert spared.listing(REF, bench.commit) == upstream.listing(REF, bench.commit)
    assert (spared.branches(REF), spared.tags(REF)) == (upstream.branches(REF), upstream.tags(REF))
    known = spared.resolve(REF)
    assert spared.resolve(REF, known=known, patience=5) is known
    assert bench.fetch(upstream=spared).result == "miss"


def test_a_damaged_note_or_a_folder_that_cannot_be_one_costs_a_question(bench: Bench) -> None:
    folder = bench.folder / "state" / "refusals"
    for data in (b"", b"[]", b'{"kind":"KeyError","message":"","hint":""}', b"\xff"):
        with pytest.raises(RevisionNotFound):
            sparing(bench).resolve(REF.at("v9"))
        (note,) = folder.iterdir()
        note.write_bytes(data)
        statuses(bench)
        with pytest.raises(RevisionNotFound):
            sparing(bench).resolve(REF.at("v9"))
        assert statuses(bench) == [404]
        note.unlink()
    with unprivileged(folder, mode=0), pytest.raises(RevisionNotFound):
        sparing(bench).resolve(REF.at("v9"))
    assert statuses(bench) == [404]
    folder.rmdir()
    folder.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(RevisionNotFound):
            sparing(bench).resolve(REF.at("v9"))
    assert statuses(bench) == [404] * 2


# Force


def spoil_store(bench: Bench) -> None:
    """Every blob of the store is wrong in one bit."""
    for data in set(TINY.values()) - {b""}:
        swap(bench.blob(data), flipped(data))


def test_force_fetches_everything_and_replaces_what_the_store_has_wrong(bench: Bench) -> None:
    bench.fetch()
    spoil_store(bench)
    bench.hub.forget()
    assert bench.fetch(force=True).bytes_downloaded == SIZE
    assert bench.hub.sent == SIZE
    assert 304 not in statuses(bench)
    bench.check_invariants()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_force_replaces_what_the_destination_and_the_store_have(bench: Bench, *, elsewhere: bool) -> None:
    if elsewhere:
        bench.remotely()
    bench.restore()
    before = {path: (bench.folder / "model" / path).stat().st_ino for path in TINY}
    spoil(bench.folder / "model" / "model.safetensors")
    spoil_store(bench)
    bench.hub.forget()
    report = bench.restore(force=True)
    assert (report.result, report.anchor, report.bytes_downloaded) == ("miss", "authority", SIZE)
    assert report.replaced == ("model.safetensors",)
    assert bench.hub.sent == SIZE
    assert files_in(bench.folder / "model") == TINY
    assert all((bench.folder / "model" / path).stat().st_ino != inode for path, inode in before.items())
    bench.check_invariants()


def test_force_takes_no_old_word_and_no_manifest_of_the_store(bench: Bench) -> None:
    bench.restore()
    bench.hub.faults.append(Status(when=api))
    with pytest.raises(Unavailable):
        bench.restore(force=True)
    with pytest.raises(Unavailable):
        bench.restore(pinned(bench), force=True)
    with pytest.raises(SnapshotNotFound):
        bench.restore(force=True, upstream=bench.offline)
    assert files_in(bench.folder / "model") == TINY


def test_a_lock_stands_above_force(bench: Bench) -> None:
    manifest = bench.cache().manifest_named(Digest(bench.fetch().manifest))
    lock = Lock((LockedModel.of(manifest, revision="main", selection=Selection()),))
    bench.repository.commit({**TINY, "config.json": b"{}"})
    bench.hub.forget()
    report = bench.restore(force=True, locks=(lock,))
    assert (report.anchor, report.bytes_downloaded) == ("lock", SIZE)
    assert bench.hub.requests(within="/api/") == []


def test_what_somebody_saved_cannot_be_downloaded_again(bench: Bench) -> None:
    bench.cache().put_head(bench.host, REF, GONE, SAVED)
    with pytest.raises(ConfigError, match="ci-modelcache save") as caught:
        bench.restore(force=True)
    assert "--force-download" in str(caught.value.hint)
    assert bench.hub.requests() == []


# The command line


@pytest.fixture
def command(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line against the Hub and the folders of *bench*; gives its exit code and stderr."""
    monkeypatch.chdir(bench.folder)
    for name, value in {"HF_ENDPOINT": bench.hub.url, "CI_MODELCACHE_STORE": str(bench.disk.root)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(bench.folder / "notes"))

    def run(line: str) -> tuple[int, str]:
        capsys.readouterr()
        return main(line.split()), capsys.readouterr().err

    return run


def test_a_loop_that_tries_again_asks_once_unless_it_is_told_to_ask(bench: Bench, command: Any) -> None:
    for verb in (f"restore {REPO}@v9 --to x", f"fetch {REPO}@v9"):
        assert command(verb)[0] == 10
    code, said = command(f"restore {REPO}@v9 --to x")
    assert (code, statuses(bench)) == (10, [404])
    assert re.search(r"\(remembered from \d+ s ago\)", said)
    assert "--force-download" in said
    for again in (f"restore {REPO}@v9 --to x --revision-ttl 0", f"fetch {REPO}@v9 --force-download"):
        assert command(again)[0] == 10
        assert statuses(bench) == [404]


def test_the_flag_fetches_all_of_it_again(bench: Bench, command: Any) -> None:
    for line in (f"restore {REPO} --to model", f"restore {REPO} --to model --force-download"):
        bench.hub.forget()
        assert command(line)[0] == 0
        assert bench.hub.sent == SIZE
    for line, sent in ((f"fetch {REPO}", 0), (f"fetch {REPO} --force-download", SIZE)):
        bench.hub.forget()
        assert command(line)[0] == 0
        assert bench.hub.sent == sent
    assert command(f"restore {REPO} --to model --force-download --fail-on-miss")[0] == 2


def test_notes_that_no_longer_count_are_swept(bench: Bench) -> None:
    for number in range(3):
        with pytest.raises(RevisionNotFound):
            sparing(bench).resolve(REF.at(f"v9.{number}"))
        bench.time += LASTING
    assert len(list((bench.folder / "state" / "refusals").iterdir())) == 1
