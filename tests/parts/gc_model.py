"""
The only module that explores protocols of writers and collections to the last state, small enough for that: one digest, and whoever needs it.

A store has keys that are written and deleted one at a time, and listed as they are. Whoever is at work may stall for ever or die at any
step, and a DELETE that was sent may land at any time after. The question to each reachable state: is there somebody who was told of
success, and no copy is left?

`SAFE` are the scopes in which the answer is no; `BAD` are protocols that lack a part, and the answer must be yes. ``python -m
tests.parts.gc_model --full`` explores larger ones, some millions of states, in minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Actor = tuple[Any, ...]
"""What somebody does next, and what he has seen so far that matters for it."""
DONE: Actor = ("done",)
DEAD: Actor = ("dead",)
DIGEST = "digest"
"""What a ref says that names no key."""


class State(NamedTuple):
    """Everything that matters: the keys of *objects*, the *ref*, *lists* as pairs of run and condemned key, *deletes* that were sent and have not landed."""

    objects: frozenset[str]
    ref: str
    intents: frozenset[int]
    lists: frozenset[tuple[Actor, str]]
    deletes: frozenset[str]
    writers: tuple[Actor, ...]
    collectors: tuple[Actor, ...]

    @property
    def condemned(self) -> frozenset[str]:
        return frozenset(key for _, key in self.lists)

    def writer(self, number: int, actor: Actor, **changes: Any) -> State:
        return self._replace(writers=_with(self.writers, number, actor), **changes)

    def collector(self, number: int, actor: Actor, **changes: Any) -> State:
        return self._replace(collectors=_with(self.collectors, number, actor), **changes)


Step = tuple[str, State]


def _with(actors: tuple[Actor, ...], number: int, actor: Actor) -> tuple[Actor, ...]:
    return (*actors[:number], actor, *actors[number + 1 :])


@frozen
class Outcome:
    """*states* were seen; the *way* is how somebody was told of success whose snapshot is gone, or empty."""

    states: int
    way: tuple[str, ...]

    @property
    def is_safe(self) -> bool:
        return not self.way

    def __str__(self) -> str:
        return f"{'safe' if self.is_safe else 'lost'}, {self.states} states" + "".join(
            f"\n    {step}" for step in self.way
        )


@frozen
class Scope:
    """A protocol, and how many are at work: a flag for each part that is left out, or done otherwise."""

    writers: int = 1
    collectors: int = 1
    runs: int = 1
    retries: int = 1
    crashes: bool = True
    turns: bool = False
    """Collections as this project makes them: what one announces another deletes, by a list of its own."""

    announced: bool = False
    """Turns: somebody announced the one copy that is there."""
    fast: str = "checked"
    """How a writer trusts a ref that is there: ``never``, ``naive`` at once, ``head`` when a copy is there, ``checked`` when one will stay."""
    pointer: str = ""
    """The ref names a key: a writer that finds another's ``accept``s it, or ``repair``s one that does not stay."""
    refs_first: bool = False
    no_intents: bool = False
    one_list: bool = False
    ignores_condemned: bool = False
    same_key: bool = False
    trusts_its_intent: bool = False
    pardons_any: bool = False
    shared_list: bool = False
    """Turns: who deletes what another announced does so by that list, and closes it."""
    drops_doomed: bool = False
    """Turns: a list by which another may be deleting is taken away as one that was announced."""

    def explore(self, *, most: int = 20_000_000) -> Outcome:
        """Look at every state that can be reached."""
        start = State(
            objects=frozenset("a"),
            ref="",
            intents=frozenset(),
            lists=frozenset({((-1, 0, "announced"), "a")} if self.announced else ()),
            deletes=frozenset(),
            writers=(("look",),) * self.writers,
            collectors=(("look", 0),) * self.collectors,
        )
        return explore(start, _Protocol(self).steps, self._is_lost, most=most)

    def _is_lost(self, state: State) -> bool:
        if DONE not in state.writers:
            return False
        return state.ref not in state.objects if self.pointer else not (state.ref and state.objects)


def explore(
    start: Any, steps: Callable[[Any], Iterator[tuple[str, Any]]], is_lost: Callable[[Any], bool], *, most: int
) -> Outcome:
    """Look at every state that *steps* lead to from *start*, the near ones first, until one *is_lost*."""
    seen: dict[Any, tuple[Any, str] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if is_lost(state):
            return Outcome(len(seen), _way(seen, state))
        for label, found in steps(state):
            if found not in seen:
                seen[found] = (state, label)
                waiting.append(found)
        if len(seen) > most:
            msg = f"more than {most} states"
            raise MemoryError(msg)
    return Outcome(len(seen), ())


def _way(seen: dict[Any, tuple[Any, str] | None], state: Any) -> tuple[str, ...]:
    way: list[str] = []
    while (before := seen[state]) is not None:
        state, label = before
        way.append(label)
    return tuple(reversed(way))


class _Protocol:
    """The steps that anybody can take in a state."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._writer = {name.removeprefix("w_"): getattr(self, name) for name in dir(self) if name.startswith("w_")}
        prefix = "t_" if scope.turns else "c_"
        self._collector = {
            name.removeprefix(prefix): getattr(self, name) for name in dir(self) if name.startswith(prefix)
        }

    def steps(self, state: State) -> Iterator[Step]:
        for key in state.deletes:
            yield (
                f"the DELETE of {key} lands",
                state._replace(objects=state.objects - {key}, deletes=state.deletes - {key}),
            )
        for number, writer in enumerate(state.writers):
            if writer not in (DONE, DEAD):
                if self._scope.crashes:
                    yield f"writer {number} dies", state.writer(number, DEAD)
                for label, found in self._writer[writer[0]](number, writer, state):
                    yield f"writer {number} {label}", found
        for number, collector in enumerate(state.collectors):
            if collector not in (DONE, DEAD):
                yield from self._collecting(number, collector, state)

    def _collecting(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        if self._scope.crashes:
            yield f"collection {number} dies", state.collector(number, DEAD)
        for intent in state.intents:
            expired = state._replace(intents=state.intents - {intent})
            yield f"collection {number} takes writer {intent} for dead", expired
        for label, found in self._collector[collector[0]](number, collector, state):
            yield f"collection {number} {label}", found

    # --- a writer

    def w_look(self, number: int, _writer: Actor, state: State) -> Iterator[Step]:
        if not state.ref or self._scope.fast == "never":
            yield "finds no ref", state.writer(number, ("begin", 0))
        elif self._scope.fast == "naive":
            yield "finds the ref: success", state.writer(number, DONE)
        elif self._scope.fast == "head":
            yield "finds the ref", state.writer(number, ("trust", frozenset()))
        else:
            yield "finds the ref", state.writer(number, ("doubt",))

    def w_doubt(self, number: int, _writer: Actor, state: State) -> Iterator[Step]:
        yield "reads the lists", state.writer(number, ("trust", state.condemned))

    def w_trust(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        kept = state.objects - writer[1]
        if state.ref in kept if self._scope.pointer else kept:
            yield "finds a copy: success", state.writer(number, DONE)
        else:
            yield "finds no copy that stays", state.writer(number, ("begin", 0))

    def w_begin(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        yield "writes its intent", state.writer(number, ("read", writer[1]), intents=state.intents | {number})

    def w_read(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        condemned = frozenset[str]() if self._scope.ignores_condemned else state.condemned
        yield f"reads the lists: {sorted(condemned)}", state.writer(number, ("store", writer[1], condemned))

    def w_store(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        _, tries, condemned = writer
        found = sorted(state.objects - condemned)
        if found:
            yield f"finds {found[0]}", state.writer(number, ("publish", tries, found[0], condemned))
        else:
            key = "a" if self._scope.same_key else f"n{number}{tries}"
            after = state.writer(number, ("publish", tries, key, condemned), objects=state.objects | {key})
            yield f"uploads {key}", after

    def w_publish(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        _, tries, key, condemned = writer
        if not self._scope.pointer:
            yield "writes the ref", state.writer(number, ("check", tries), ref=DIGEST)
        elif not state.ref:
            yield f"writes a ref of {key}", state.writer(number, ("check", tries), ref=key)
        elif self._scope.pointer == "accept":
            yield f"finds a ref of {state.ref}", state.writer(number, ("check", tries))
        else:
            yield f"finds a ref of {state.ref}", state.writer(number, ("repair", tries, key, condemned, state.ref))

    def w_repair(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        _, tries, key, condemned, seen = writer
        if seen == key or seen in state.objects - condemned:
            yield "finds what the ref names", state.writer(number, ("check", tries))
        elif state.ref == seen:
            yield f"replaces the ref by one of {key}", state.writer(number, ("check", tries), ref=key)
        else:
            yield "was too late", state.writer(number, ("publish", tries, key, condemned))

    def w_check(self, number: int, writer: Actor, state: State) -> Iterator[Step]:
        if number in state.intents or self._scope.trusts_its_intent:
            yield "finds its intent: success", state.writer(number, ("tidy",))
        elif writer[1] < self._scope.retries:
            yield "misses its intent", state.writer(number, ("begin", writer[1] + 1))

    def w_tidy(self, number: int, _writer: Actor, state: State) -> Iterator[Step]:
        yield "removes its intent", state.writer(number, DONE, intents=state.intents - {number})

    # --- a collection that does everything itself: look, condemn, look again, delete, close

    def c_look(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        yield "lists objects", state.collector(number, ("first", collector[1], state.objects))

    def c_first(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        yield from self._first_names(number, ("second", *collector[1:]), state)

    def c_second(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, objects, half = collector
        names = self._unnamed(objects, half, state)
        yield f"lists the rest: {sorted(names)} to condemn", state.collector(number, ("condemn", run, names))

    def c_condemn(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, names = collector
        then = ("delete", run, names, names) if self._scope.one_list else ("third", run, names)
        yield "condemns", state.collector(number, then, lists=state.lists | {((number, run), key) for key in names})

    def c_third(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        yield from self._first_names(number, ("fourth", *collector[1:]), state)

    def c_fourth(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, names, half = collector
        doomed = self._unnamed(names, half, state)
        yield f"lists the rest: {sorted(doomed)} to delete", state.collector(number, ("delete", run, names, doomed))

    def c_delete(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, names, doomed = collector
        yield "deletes", state.collector(number, ("close", run, names, doomed), deletes=state.deletes | doomed)

    def c_close(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, names, doomed = collector
        spared = names - doomed
        any_run = self._scope.pardons_any
        lists = frozenset(
            (owner, key) for owner, key in state.lists if key not in spared or not (any_run or owner == (number, run))
        )
        yield "closes", state.collector(number, self._next(run), lists=lists)

    # --- a collection as this project makes it: what others announced is deleted, what is new is announced

    def t_look(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        # No clock: whatever was announced, or doomed by anybody who did not close, may be due.
        due = frozenset((owner, key) for owner, key in state.lists if owner[2] != "closed")
        yield "lists objects and what is due", state.collector(number, ("doom", collector[1], state.objects, due))

    def t_doom(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, objects, due = collector
        names = objects & {key for _, key in due}
        own = () if self._scope.shared_list else {((number, run, "doomed"), key) for key in names}
        then = ("first", run, (objects, names, due))
        yield f"dooms {sorted(names)}", state.collector(number, then, lists=state.lists.union(own))

    def t_first(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        yield from self._first_names(number, ("second", *collector[1:]), state)

    def t_second(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, (objects, names, due), half = collector
        deleted = self._unnamed(names, half, state)
        fresh = self._unnamed(objects, half, state) - {key for _, key in due}
        yield (
            f"lists the rest: {sorted(deleted)} to delete",
            state.collector(number, ("delete", run, names, deleted, due, fresh)),
        )
        kept = frozenset(each for each in state.lists if each[0] != (number, run, "doomed"))
        yield "is refused", state.collector(number, DONE, lists=kept)

    def t_delete(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        deletes = state.deletes | collector[3]
        yield "deletes", state.collector(number, ("close", *collector[1:]), deletes=deletes)

    def t_close(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, names, deleted, due, fresh = collector
        own = (number, run, "doomed")
        kept = {each for each in state.lists if each[0] != own}
        if self._scope.shared_list:
            kept = {each for each in kept if each not in due or each[1] in deleted}
        kept |= {((number, run, "closed"), key) for key in names & deleted}
        yield "closes", state.collector(number, ("withdraw", run, due, fresh), lists=frozenset(kept))

    def t_withdraw(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, due, fresh = collector
        gone = {each for each in due if each[0][2] == "announced" or self._scope.drops_doomed}
        lists = state.lists if self._scope.shared_list else state.lists - gone
        yield "takes lists away", state.collector(number, ("announce", run, fresh), lists=lists)

    def t_announce(self, number: int, collector: Actor, state: State) -> Iterator[Step]:
        _, run, fresh = collector
        lists = state.lists | {((number, run, "announced"), key) for key in fresh}
        yield f"announces {sorted(fresh)}", state.collector(number, self._next(run), lists=lists)

    # --- for both

    def _first_names(self, number: int, then: Actor, state: State) -> Iterator[Step]:
        if self._scope.refs_first:
            yield "lists refs", state.collector(number, (*then, state.ref))
        else:
            yield f"lists intents: {sorted(state.intents)}", state.collector(number, (*then, bool(state.intents)))

    def _unnamed(self, keys: frozenset[str], half: Any, state: State) -> frozenset[str]:
        ref, intended = (half, bool(state.intents)) if self._scope.refs_first else (state.ref, half)
        if intended and not self._scope.no_intents:
            return frozenset()
        if self._scope.pointer:
            return keys - {ref}
        return frozenset() if ref else keys

    def _next(self, run: int) -> Actor:
        return ("look", run + 1) if run + 1 < self._scope.runs else DONE


@frozen
class Aging:
    """Protocols that go by the age of an object, which knows nothing of intents and lists."""

    grace: int = 1
    touches: bool = False
    looks_again: bool = False
    """The collection looks at the age once more before it deletes, and the writer gives up when it was too slow."""

    def explore(self) -> Outcome:
        return explore((-5, False, False, 0, ("look",), ("look",)), self._steps, self._is_lost, most=100_000)

    def _is_lost(self, state: Any) -> bool:
        age, _, _, _, writer, _ = state
        return writer == DONE and age is None

    def _steps(self, state: Any) -> Iterator[tuple[str, Any]]:
        age, ref, deleting, now, writer, collector = state
        if deleting:
            yield "the DELETE lands", (None, ref, False, now, writer, collector)
        if now < 2:
            yield "time goes by", (age, ref, deleting, now + 1, writer, collector)
        if writer == ("look",):
            young = now if age is None or self.touches else age
            yield "the writer finds the object, or uploads it", (young, ref, deleting, now, ("publish", now), collector)
        elif writer[0] == "publish" and self.looks_again and now - writer[1] >= self.grace:
            yield "the writer was too slow", (age, ref, deleting, now, ("look",), collector)
        elif writer[0] == "publish":
            yield "the writer writes its ref", (age, True, deleting, now, DONE, collector)
        old = age is not None and now - age >= self.grace
        if collector == ("look",) and old and not ref:
            yield "the collection finds the object old and unnamed", (age, ref, deleting, now, writer, ("delete",))
        elif collector == ("delete",) and (old or not self.looks_again):
            yield "the collection deletes it", (age, ref, True, now, writer, DONE)


BAD: dict[str, Scope | Aging] = {
    "no grace": Aging(grace=0),
    "age of the object": Aging(),
    "age, and a writer touches what it finds": Aging(touches=True),
    "age, touched, and looked at again": Aging(touches=True, looks_again=True),
    "nobody looks again after condemning": Scope(one_list=True),
    "a writer ignores the lists": Scope(ignores_condemned=True),
    "a condemned name is written again": Scope(same_key=True),
    "a writer does not look for its intent": Scope(trusts_its_intent=True),
    "refs are listed before intents": Scope(refs_first=True),
    "intents are not looked for": Scope(no_intents=True),
    "a run pardons what another condemned": Scope(runs=2, pardons_any=True),
    "a ref is trusted": Scope(writers=2, fast="naive"),
    "a ref and a copy are trusted": Scope(writers=2, fast="head"),
    "a ref names a key": Scope(writers=2, pointer="accept", fast="never"),
    "turns: refs are listed before intents": Scope(turns=True, runs=2, refs_first=True),
    "turns: intents are not looked for": Scope(turns=True, runs=2, no_intents=True),
    "turns: a writer ignores the lists": Scope(turns=True, runs=2, ignores_condemned=True),
    "turns: a condemned name is written again": Scope(turns=True, runs=2, same_key=True),
    "turns: a writer does not look for its intent": Scope(turns=True, runs=2, trusts_its_intent=True),
    "turns: two delete by one announced list": Scope(
        turns=True, announced=True, collectors=2, shared_list=True, crashes=False
    ),
    "turns: the list of one that may be deleting is taken away": Scope(
        turns=True, announced=True, collectors=2, drops_doomed=True, crashes=False
    ),
}
SAFE = {
    "one writer": Scope(),
    "two writers": Scope(writers=2),
    "two collections at a time": Scope(collectors=2),
    "two collections": Scope(runs=2),
    "turns: one writer": Scope(turns=True, runs=3),
    "turns: two writers": Scope(turns=True, announced=True, writers=2, retries=0),
    "turns: two collections at a time": Scope(turns=True, announced=True, collectors=2, crashes=False),
}
BAD_FULL = {"a ref names a key and is repaired": Scope(writers=2, runs=2, pointer="repair")}
SAFE_FULL = {
    "a ref names a key and is repaired, one collection": Scope(writers=2, pointer="repair"),
    "two writers, two collections": Scope(writers=2, runs=2),
    "two writers, two collections at a time": Scope(writers=2, collectors=2),
    "three writers": Scope(writers=3, retries=0),
    "turns: two collections at a time, which may die": Scope(turns=True, announced=True, collectors=2),
    "turns: two writers, two collections": Scope(turns=True, writers=2, runs=2),
    "turns: two collections twice at a time": Scope(turns=True, announced=True, collectors=2, runs=2),
    "turns: two writers, two collections at a time": Scope(
        turns=True, announced=True, writers=2, collectors=2, retries=0, crashes=False
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parts.gc_model", description="Explore protocols to the last state."
    )
    parser.add_argument("--full", action="store_true", help="also what takes minutes and gigabytes")
    full = parser.parse_args().full
    wrong = 0
    for expected, scopes in ((False, BAD | (BAD_FULL if full else {})), (True, SAFE | (SAFE_FULL if full else {}))):
        for name, scope in scopes.items():
            began = time.monotonic()
            outcome = scope.explore()
            wrong += outcome.is_safe != expected
            mark = "" if outcome.is_safe == expected else "NOT AS IT SHOULD BE: "
            sys.stdout.write(f"{mark}{name} ({time.monotonic() - began:.1f} s): {outcome}\n")
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
