"""The only module that finds out what a store really does, by doing it: stores exist that answer 200 and ignore the condition."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from attrs import frozen

from ci_modelcache.errors import AlreadyExists, ObjectNotFound, StoreUnsupported
from ci_modelcache.transfer.deadline import Deadline
from ci_modelcache.transfer.parallel import for_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ci_modelcache.stores.protocol import Store

WRITERS = 2
"""Threads that race for each key. SeaweedFS has all but one of them wait, a second each: eight took 5 s and more."""
RACES = 16
"""Keys that are raced for, all at once."""
LISTED = 4
"""Objects that are looked for in a listing."""
_BODY = bytes(range(256)) * 16
_PATIENCE = 60.0
"""Seconds that a writer waits for the others to be ready."""


@frozen
class Capabilities:
    """
    What was seen of a store. It is advice, never trusted: another server may answer the next request.

    *create_only*: ``atomic`` (of writers that race exactly one wins), ``racy`` (a second write is refused, but racing
    writers both win) or ``ignored``. *checksums*: what becomes of a wrong SHA-256: ``verified`` (refused), ``ignored``,
    ``refused`` (right ones too: none are sent), or ``unused`` by this kind of store.
    """

    create_only: Literal["atomic", "racy", "ignored"]
    list_after_write: bool
    ranged_reads: bool
    deletes: bool
    checksums: Literal["verified", "ignored", "refused", "unused"]


@runtime_checkable
class TriesChecksums(Protocol):
    """A store that can send checksums along with objects."""

    def try_checksums(self, key: str) -> Literal["verified", "ignored", "refused"]:
        """What the server does with SHA-256 checksums, tried with an object *key* that the caller deletes."""


def probe(store: Store, *, random: Callable[[int], bytes]) -> Capabilities:
    """
    Find out what *store* does, below ``probe/<random>/``, which is empty again at the end.

    *random* returns so many random bytes. Raises what the store raises: `AccessDenied` for one that may only be read.
    """
    folder = f"probe/{random(16).hex()}"
    try:
        return Capabilities(
            create_only=_create_only(store, f"{folder}/create-only"),
            list_after_write=_list_after_write(store, f"{folder}/listed"),
            ranged_reads=_ranged_reads(store, f"{folder}/ranged"),
            deletes=_deletes(store, f"{folder}/deleted"),
            checksums=store.try_checksums(f"{folder}/checksums") if isinstance(store, TriesChecksums) else "unused",
        )
    finally:
        for left in list(store.scan(f"{folder}/")):
            store.delete(left.key)


def _create_only(store: Store, folder: str) -> Literal["atomic", "racy", "ignored"]:
    store.write(f"{folder}/twice", [b"first"], size=5)
    if _creates(store, f"{folder}/twice", b"other"):
        return "ignored"
    wins = _winners(store, [f"{folder}/race-{number}" for number in range(RACES)])
    return "atomic" if wins == [1] * RACES else "racy"


def _winners(store: Store, keys: Sequence[str]) -> list[int]:
    """For each of *keys*, how many of `WRITERS` threads that create it at the same time are told that they did."""
    gates = {key: threading.Barrier(WRITERS) for key in keys}
    won: list[str] = []

    def race(racer: tuple[str, int]) -> None:
        key, number = racer
        _is_there(store, key)  # so that each has a connection: who has to make one first comes too late to race
        gates[key].wait(_PATIENCE)
        if _creates(store, key, b"%05d" % number):
            won.append(key)

    racers = [(key, number) for key in keys for number in range(WRITERS)]
    # Without a deadline of its own: each request keeps that of the store.
    for_each(racers, race, workers=len(racers), deadline=Deadline(), doing=f"probing {store.url}")
    return [won.count(key) for key in keys]


def _creates(store: Store, key: str, body: bytes) -> bool:
    try:
        store.write(key, [body], size=len(body), create_only=True)
    except AlreadyExists:
        return False
    return True


def _list_after_write(store: Store, folder: str) -> bool:
    for number in range(LISTED):
        key = f"{folder}/{number}"
        store.write(key, [_BODY], size=len(_BODY))
        if key not in {found.key for found in store.scan(f"{folder}/")}:
            return False
    return True


def _ranged_reads(store: Store, key: str) -> bool:
    size = len(_BODY)
    store.write(key, [_BODY], size=size)
    ranges: tuple[tuple[int, int | None], ...] = ((0, 1), (1, None), (100, 300), (size - 1, size), (size, None))
    try:
        return all(_read(store, key, start, stop) == _BODY[start:stop] for start, stop in ranges)
    except StoreUnsupported:
        return False


def _read(store: Store, key: str, start: int, stop: int | None) -> bytes:
    with store.read(key, start=start, stop=stop) as chunks:
        return b"".join(chunks)


def _deletes(store: Store, key: str) -> bool:
    store.write(key, [_BODY], size=len(_BODY))
    store.delete(key)
    return not _is_there(store, key)


def _is_there(store: Store, key: str) -> bool:
    try:
        store.stat(key)
    except ObjectNotFound:
        return False
    return True
