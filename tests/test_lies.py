"""Who is found to lie, whichever of two or three sources it is; and what a lie costs, counted at the Hubs."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from attrs import field, frozen

from ci_modelcache.errors import DigestMismatch
from ci_modelcache.model.digest import verified
from ci_modelcache.model.ref import ModelRef
from ci_modelcache.sources.hub import HubEndpoint
from ci_modelcache.sources.lies import SAMPLE
from ci_modelcache.sources.mirrors import Mirrors
from ci_modelcache.sources.router import Router, Source
from ci_modelcache.transfer.assemble import SPLIT
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.events import Attempt, Event
from ci_modelcache.transfer.partial import PREFIX
from ci_modelcache.transfer.retry import RetryPolicy
from ci_modelcache.verbs.receive import Inbound, Received, receive
from ci_modelcache.verbs.step import Step
from tests.parts.hub import listed
from tests.parts.hub_faults import Flipped, Limited, Poison
from tests.parts.upstreams import MEGA, MODEL, REPO, hubs, weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci_modelcache.demo.hub import LoopbackHub
    from ci_modelcache.sources.http import HttpSession
    from ci_modelcache.transfer.partial import Partial

SIZE = 24 * MEGA
DATA = weights(SIZE)
ON_THE_WAY = 1024 * 1024
"""Bytes that a Hub has handed to the network when a connection is closed, and that nobody reads."""


@frozen
class Attempts:
    """Events of which the attempts are kept."""

    kept: list[Attempt] = field(factory=list)

    def record(self, event: Event, /) -> None:
        if isinstance(event, Attempt):
            self.kept.append(event)

    @property
    def received(self) -> int:
        return sum(each.received for each in self.kept)


class Trial:
    """The file of `DATA` from *found*, the most wanted first; only the last of them is not suspected of anything."""

    def __init__(
        self, found: list[LoopbackHub], session: HttpSession, folder: Path, *, connections: int = 8, seed: int = 1
    ) -> None:
        self.hubs = found
        self.folder = folder
        self.attempts = Attempts()
        self.retry = RetryPolicy(3, base=0.001, cap=0.01, deadline=Deadline(60))
        ends = [HubEndpoint(hub.url, session=session, retry=self.retry, strict_ranges=True) for hub in found]
        # Said before anything lies: it is not what a listing says that is tried here.
        self.commit, self.file = listed(ends[-1], MODEL, ModelRef(REPO))
        dice = random.Random(seed)
        self.router = Router(
            [Source(end, priority) for priority, end in enumerate(ends)],
            connections=connections,
            random=dice.random,
            events=self.attempts,
        )
        self.mirrors = Mirrors(ends[-1], self.router, retry=self.retry)
        for hub in found:
            hub.forget()

    def receive(self) -> Received[bytes]:
        def take(chunks: Iterator[bytes], _partial: Partial | None) -> bytes:
            hasher = self.file.expected.fingerprinter(leaves=False)
            return b"".join(verified(chunks, self.file.expected, MODEL, into=hasher))

        ref = ModelRef(REPO).at(self.commit)
        step = Step(self.folder / "state", retry=self.retry, workers=8)
        received = receive(self.file, Inbound(ref, self.mirrors, self.folder / "partial", step), take=take)
        assert received.result == DATA
        assert sum(received.sources.values()) == SIZE
        return received

    @property
    def sent(self) -> int:
        """Bytes that all Hubs sent."""
        return sum(hub.sent for hub in self.hubs)

    def liars(self, received: Received[bytes]) -> list[int]:
        """Which of the Hubs are said to have lied."""
        urls = [warning.partition(" sent wrong bytes")[0] for warning in received.warnings]
        return [number for number, hub in enumerate(self.hubs) if hub.url in urls]

    def knows(self, number: int, proven: int) -> None:
        """So many bytes of that Hub were proven before."""
        self.router.sources[number].health.proven = proven


@pytest.fixture
def three() -> Iterator[list[LoopbackHub]]:
    with hubs(3, {MODEL: DATA}) as found:
        yield found


@pytest.fixture
def two() -> Iterator[list[LoopbackHub]]:
    with hubs(2, {MODEL: DATA}) as found:
        yield found


def slowed(found: list[LoopbackHub]) -> None:
    """As a network does: who is unlimited has sent megabytes into buffers before anybody can say stop."""
    for hub in found:
        hub.faults.append(Limited(rate=20e6))


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_mirror_whose_every_byte_is_wrong_costs_at_most_a_part_more_than_the_file(
    liar: int, three: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    slowed(three)
    three[liar].faults.append(Poison())
    trial = Trial(three, session, tmp_path)
    received = trial.receive()
    if three[liar].sent:
        assert trial.liars(received) == [liar]
    assert three[liar].url not in received.sources
    # A sample of each of the three, from each of the other two at most.
    assert trial.attempts.received <= SIZE + SPLIT + 6 * SAMPLE + ON_THE_WAY
    assert trial.sent <= SIZE + SPLIT + 6 * SAMPLE + ON_THE_WAY * 3


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_the_one_that_lies_is_named_though_nobody_can_be_asked_who_is_right(
    liar: int, two: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    """The digest decides in the end; a wrong guess costs the file once more, at most."""
    slowed(two)
    two[liar].faults.append(Poison())
    trial = Trial(two, session, tmp_path)
    received = trial.receive()
    assert trial.liars(received) == [liar]
    assert set(received.sources) == {two[1 - liar].url}
    assert trial.attempts.received <= 2 * SIZE + 2 * SPLIT


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_the_one_that_was_right_before_is_believed_first(
    liar: int, two: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    slowed(two)
    two[liar].faults.append(Poison())
    trial = Trial(two, session, tmp_path)
    trial.knows(1 - liar, 10**9)
    assert trial.liars(trial.receive()) == [liar]
    assert trial.attempts.received <= SIZE + SPLIT + 4 * SAMPLE + ON_THE_WAY


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("liar", [0, 1])
@pytest.mark.parametrize("at", [0, SPLIT, SIZE - 1])
def test_one_wrong_byte_is_found_wherever_it_is_and_only_its_part_comes_again(
    count: int, liar: int, at: int, session: HttpSession, tmp_path: Path
) -> None:
    with hubs(count, {MODEL: DATA}) as found:
        found[liar].faults.append(Flipped(at=at))
        trial = Trial(found, session, tmp_path, connections=1)
        # It is the fastest by far, so that all comes from it.
        for number, source in enumerate(trial.router.sources):
            source.health.speed = 1e9 if number == liar else 1e6
        received = trial.receive()
        assert trial.liars(received) == [liar]
        assert received.sources[found[liar].url] >= SIZE - SPLIT
        parts = at // SPLIT + 1
        # Part after part is compared until the wrong one is found, which a third source decides about.
        assert trial.attempts.received <= SIZE + (parts + 1) * SPLIT + 6 * SAMPLE + ON_THE_WAY


def test_nobody_is_said_to_lie_where_nobody_does(
    three: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    trial = Trial(three, session, tmp_path)
    assert trial.receive().warnings == ()
    assert all(source.health.barred_until == 0 for source in trial.router.sources)


def test_where_all_send_the_same_wrong_bytes_it_is_corruption_each_is_named_and_nothing_is_kept(
    three: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    for hub in three:
        hub.faults.append(Poison())
    trial = Trial(three, session, tmp_path)
    with pytest.raises(DigestMismatch) as caught:
        trial.receive()
    told = "\n".join([caught.value.message, *caught.value.__notes__])
    senders = {each.source for each in trial.attempts.kept if each.received > SPLIT}
    assert all(url in told for url in senders)
    assert not list(tmp_path.rglob(f"{PREFIX}*"))
    # Once, once compared, and once more; it does not go on for ever.
    assert trial.attempts.received <= 5 * SIZE


def test_a_liar_is_left_alone_for_other_files_too_and_remembered_as_one(
    three: list[LoopbackHub], session: HttpSession, tmp_path: Path
) -> None:
    three[0].faults.append(Poison())
    trial = Trial(three, session, tmp_path)
    trial.receive()
    health = trial.router.sources[0].health
    assert health.state(trial.router.clock()) == "barred"
    assert health.failures["wrong-bytes"] == 1
    assert health.proven == 0
    assert sum(source.health.proven for source in trial.router.sources) == SIZE
