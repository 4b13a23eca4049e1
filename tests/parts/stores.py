"""
The only module that makes stores misbehave. Each of these *is* a `Store`, and passes on to another what it does not spoil.

Where a fault hits is said by a predicate over `Operation`; `touching` makes the usual ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import frozen

from ci_modelcache.errors import AlreadyExists, ObjectNotFound
from ci_modelcache.stores.keys import check_key, check_prefix, exactly
from ci_modelcache.stores.protocol import ObjectInfo
from ci_modelcache.stores.sums import summed

if TYPE_CHECKING:
    from ci_modelcache.errors import ModelCacheError
    from ci_modelcache.stores.protocol import Store


@frozen
class Operation:
    """One call of a store: *verb* is read, write, stat, scan or delete."""

    verb: str
    key: str

    def __str__(self) -> str:
        return f"{self.verb} {self.key}"


Where = Callable[[Operation], bool]


def touching(prefix: str, *verbs: str) -> Where:
    """Operations on keys below *prefix*, of all verbs or of these."""
    return lambda operation: operation.key.startswith(prefix) and (not verbs or operation.verb in verbs)


class MemoryStore:
    """A `Store` in a dict: for tests that run thousands of times."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        try:
            data = self.objects[check_key(key)]
        except KeyError:
            raise ObjectNotFound(key, self.url) from None
        yield iter([data[start:stop]])

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        data = b"".join(summed(exactly(chunks, size, check_key(key)), sums, size=size, what=key))
        with self._lock:
            if create_only and key in self.objects:
                raise AlreadyExists(key, self.url)
            self.objects[key] = data

    def stat(self, key: str) -> ObjectInfo:
        try:
            return ObjectInfo(key, len(self.objects[check_key(key)]), 0.0)
        except KeyError:
            raise ObjectNotFound(key, self.url) from None

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            found = sorted((key, len(data)) for key, data in self.objects.items() if key.startswith(prefix))
        for key, size in found:
            yield ObjectInfo(key, size, 0.0)

    def delete(self, key: str) -> None:
        self.objects.pop(check_key(key), None)


class Passing:
    """Passes everything on; its children override `before` and `after`, which may raise. Not called twice for one call."""

    def __init__(self, store: Store) -> None:
        self.inner = store

    @property
    def url(self) -> str:
        return self.inner.url

    def before(self, operation: Operation) -> None:
        """Called before *operation* is passed on."""

    def after(self, operation: Operation) -> None:
        """Called when *operation* was done; of a read, when it was opened, and of a scan, when it was begun."""

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        self.before(Operation("read", key))
        with self.inner.read(key, start=start, stop=stop) as chunks:
            self.after(Operation("read", key))
            yield chunks

    def write(
        self, key: str, chunks: Iterable[bytes], *, size: int, create_only: bool = False, sums: Sequence[bytes] = ()
    ) -> None:
        self.before(Operation("write", key))
        body = self.body(Operation("write", key), chunks)
        self.inner.write(key, body, size=size, create_only=create_only, sums=sums)
        self.after(Operation("write", key))

    def body(self, operation: Operation, chunks: Iterable[bytes]) -> Iterable[bytes]:  # noqa: ARG002  # for children
        """The bytes that are passed on for *chunks*."""
        return chunks

    def stat(self, key: str) -> ObjectInfo:
        self.before(Operation("stat", key))
        found = self.inner.stat(key)
        self.after(Operation("stat", key))
        return found

    def scan(self, prefix: str) -> Iterator[ObjectInfo]:
        self.before(Operation("scan", prefix))
        found = self.inner.scan(prefix)
        self.after(Operation("scan", prefix))
        yield from found

    def delete(self, key: str) -> None:
        self.before(Operation("delete", key))
        self.inner.delete(key)
        self.after(Operation("delete", key))


class Recording(Passing):
    """Writes down every operation in *operations*, in the order in which they begin."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.operations: list[Operation] = []

    def before(self, operation: Operation) -> None:
        self.operations.append(operation)

    def keys(self, verb: str, prefix: str = "") -> list[str]:
        """The keys below *prefix* of all operations of *verb*."""
        return [each.key for each in self.operations if each.verb == verb and each.key.startswith(prefix)]


class Failing(Passing):
    """Raises what *error* makes instead of the first *times* operations that are *where*; the inner store sees nothing of them."""

    def __init__(
        self, store: Store, error: Callable[[], ModelCacheError], where: Where, *, times: int = 1 << 30
    ) -> None:
        super().__init__(store)
        self._error, self._where, self._left = error, where, times

    def before(self, operation: Operation) -> None:
        if self._where(operation) and self._left > 0:
            self._left -= 1
            raise self._error()


class LosingAnswers(Failing):
    """As `Failing`, but the operation is carried out first: only the answer is lost."""

    def before(self, operation: Operation) -> None:
        """Let it happen."""

    def after(self, operation: Operation) -> None:
        super().before(operation)


class IgnoringCreateOnly(Passing):
    """Replaces whatever is there, as ``rclone serve s3`` does."""

    def write(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        size: int,
        create_only: bool = False,  # noqa: ARG002  # that is the fault
        sums: Sequence[bytes] = (),
    ) -> None:
        super().write(key, chunks, size=size, sums=sums)


class Meddling(Passing):
    """Calls *steps*[n] before the operation number n (from 0): what somebody else does to the same store meanwhile."""

    def __init__(self, store: Store, steps: dict[int, list[Callable[[], None]]]) -> None:
        super().__init__(store)
        self._steps = steps
        self.count = 0

    def before(self, operation: Operation) -> None:  # noqa: ARG002  # numbered, not named
        number, self.count = self.count, self.count + 1
        for step in self._steps.get(number, []):
            step()


class Altering(Passing):
    """Gives back the bytes of every read that is *where* as *alter* makes them."""

    def __init__(self, store: Store, alter: Callable[[bytes], bytes], where: Where, *, times: int = 1 << 30) -> None:
        super().__init__(store)
        self._alter, self._where, self._left = alter, where, times

    @contextmanager
    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[Iterator[bytes]]:
        with super().read(key, start=start, stop=stop) as chunks:
            if self._where(Operation("read", key)) and self._left > 0:
                self._left -= 1
                chunks = iter([self._alter(b"".join(chunks))])  # noqa: PLW2901  # that is the fault
            yield chunks


class Crash(BaseException):
    """The process dies here."""


class Crashing(Passing):
    """
    Dies at the operation number *at* (from 0), and is dead from then on.

    *moment* is ``before`` it was done, ``after`` it was done, or ``within``: a write then dies in the middle of its body.
    """

    def __init__(self, store: Store, *, at: int, moment: str) -> None:
        super().__init__(store)
        self._at, self._moment = at, moment
        self.count = 0

    @property
    def is_dead(self) -> bool:
        """Whether the crash has happened."""
        return self.count > self._at

    def _die(self, moment: str) -> None:
        if self.count - 1 > self._at or (self.count - 1 == self._at and moment == self._moment):
            raise Crash

    def before(self, operation: Operation) -> None:
        self.count += 1
        self._die("before")
        if operation.verb != "write":
            self._die("within")

    def after(self, operation: Operation) -> None:  # noqa: ARG002  # numbered, not named
        self._die("after")

    def body(self, operation: Operation, chunks: Iterable[bytes]) -> Iterator[bytes]:  # noqa: ARG002  # as above
        for chunk in chunks:
            yield chunk[: len(chunk) // 2]
            self._die("within")
            yield chunk[len(chunk) // 2 :]
        self._die("within")


def content(store: Store, key: str) -> bytes:
    """All bytes of *key*."""
    with store.read(key) as chunks:
        return b"".join(chunks)


def tree(store: Store) -> dict[str, bytes]:
    """Everything that *store* holds."""
    return {info.key: content(store, info.key) for info in store.scan("")}
