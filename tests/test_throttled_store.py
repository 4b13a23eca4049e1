"""A store that is slowed down is a store: it passes the contract, keeps to the rate, and a local folder is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import DeadlineExceeded, ObjectNotFound
from ci_modelcache.stores.directory import DirectoryStore
from ci_modelcache.stores.protocol import OnDisk
from ci_modelcache.stores.throttled import ThrottledStore, throttled
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.throttle import Throttle
from tests.contracts.store import MIB, StoreContract, content, get, put
from tests.parts.clocks import Clock
from tests.parts.stores import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from ci_modelcache.stores.protocol import Store


class TestThrottledStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        inner = DirectoryStore(tmp_path / "store", create=True)
        return ThrottledStore(inner, Throttle(2e9), deadline=Deadline(60))

    @pytest.fixture
    def homeless(self, tmp_path: Path) -> Store:
        inner = DirectoryStore(tmp_path / "unmounted", create=True)
        (tmp_path / "unmounted").rmdir()
        return ThrottledStore(inner, Throttle(2e9), deadline=Deadline(60))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def slow(clock: Clock, store: Store, *, seconds: float | None = None) -> Store:
    throttle = Throttle(1e6, clock=clock, sleep=clock.sleep)
    return throttled(store, throttle, deadline=Deadline(seconds, clock=clock))


def test_reading_and_writing_keep_to_one_rate_together(clock: Clock) -> None:
    store, begun = slow(clock, MemoryStore()), clock.now
    put(store, "x", content(2 * MIB))
    assert clock.now - begun == pytest.approx(2.1, rel=0.05)
    assert get(store, "x") == content(2 * MIB)
    assert clock.now - begun == pytest.approx(4.2, rel=0.05)


def test_a_write_that_meets_the_deadline_leaves_nothing(clock: Clock) -> None:
    inner = MemoryStore()
    with pytest.raises(DeadlineExceeded):
        put(slow(clock, inner, seconds=1), "x", content(3 * MIB))
    with pytest.raises(ObjectNotFound):
        inner.stat("x")


def test_a_folder_of_this_machine_is_no_network(clock: Clock, tmp_path: Path) -> None:
    folder = DirectoryStore(tmp_path, create=True)
    assert slow(clock, folder) is folder
    assert not isinstance(slow(clock, MemoryStore()), OnDisk)


def test_it_is_called_what_its_user_called_it(clock: Clock) -> None:
    inner = MemoryStore()
    assert slow(clock, inner).url == inner.url
