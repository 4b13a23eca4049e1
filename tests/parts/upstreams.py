"""
Several loopback Hubs with one model and different plans, and a bench that runs command lines against them.

`Hubs` are in this process, and their faults may be changed at any time. `Distant` ones have a process of their own: for whatever
is about speed, and for the bytes that a client took which was killed.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from attrs import frozen

import ci_modelcache.cli.upstreams  # noqa: F401  # all that `quick` changes is to be loaded by then
from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.model.mirror_table import token_variable
from ci_modelcache.sources import health, http
from ci_modelcache.transfer import assemble, retry, watch
from ci_modelcache.transfer.partial import PREFIX as PARTIAL
from tests.parts.verbs import STAGED, files_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from types import TracebackType

    from ci_modelcache.demo.repository import Files

REPO = "acme/big"
MODEL = "model.safetensors"
MEGA = 1_000_000
Plan = tuple[type[Any], dict[str, Any]]
"""A fault that is made in another process: its class and what it is made of."""
TOKENS = ("correct-horse-battery-staple", "Tr0ub4dor+3/x=", "opaque-word-of-the-third")
"""Secrets without a mark by which they could be known, one for each mirror."""


def weights(size: int, seed: int = 1) -> bytes:
    """*size* bytes that no part of repeats another."""
    return random.Random(seed).randbytes(size)


# --- in this process


@contextmanager
def hubs(count: int, files: Files, **options: Any) -> Iterator[list[LoopbackHub]]:
    """So many Hubs that have *files* as `REPO`, each with a token of its own that it knows."""
    with ExitStack() as running:
        found = []
        for number in range(count):
            tokens = {TOKENS[number % len(TOKENS)]: "reader"}
            hub = running.enter_context(LoopbackHub(cdn=False, tokens=tokens, **options))
            hub.add_repo(REPO, {"main": files})
            found.append(hub)
        yield found


# --- in processes of their own


class Distant:
    """A Hub in a process of its own while the block runs; *plans* are made into its faults there, *folder* is what it serves."""

    def __init__(self, folder: Path, plans: Sequence[Plan] = (), *, repo: str = REPO) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        # Spawned: a fork of a process with threads may hang, and Python says so.
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs, str(folder), tuple(plans), repo), daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._process.start()
        if not self._pipe.poll(60):
            self._process.kill()
            msg = "a Hub did not start within 60 s"
            raise TimeoutError(msg)
        self.url = self._pipe.recv()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._pipe.send("stop")
        self._process.join(10)
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()

    @property
    def sent(self) -> int:
        """Bytes of bodies of files sent so far."""
        return int(self._ask("sent"))

    @property
    def asked(self) -> int:
        """Requests so far."""
        return int(self._ask("asked"))

    def forget(self) -> None:
        """Count from here."""
        self._ask("forget")


def _serve(pipe: Connection, folder: str, plans: tuple[Plan, ...], repo: str) -> None:
    # Nobody is to wait for a thread that sleeps in a throttle, nor for Python's habits at the end: the parent kills.
    sys.setswitchinterval(0.001)
    with LoopbackHub(cdn=False, faults=[kind(**options) for kind, options in plans]) as hub:
        hub.add_repo(repo, {"main": Path(folder)})
        pipe.send(hub.url)
        while True:
            match pipe.recv():
                case "sent":
                    pipe.send(hub.sent)
                case "asked":
                    pipe.send(len(hub.requests()))
                case "forget":
                    hub.forget()
                    pipe.send(None)
                case _:
                    return


# --- the bench


@frozen
class Outcome:
    """How a command line went: exit code, stdout, stderr and the lines of its report."""

    code: int
    out: str
    err: str
    events: tuple[dict[str, Any], ...]

    @property
    def snapshot(self) -> dict[str, Any]:
        """The report of the only snapshot, from stdout."""
        document = json.loads(self.out)
        (one,) = document.get("snapshots", [document])
        return dict(one)

    def attempts(self, url: str, *causes: str) -> list[dict[str, Any]]:
        """Requests for bytes to the source at *url*, those that ended by one of *causes* if any is given."""
        tried = (each for each in self.events if each["event"] == "attempt" and each["path"])
        return [each for each in tried if each["source"] == url and (not causes or each["cause"] in causes)]

    def waited(self, *, least: float = 0.5) -> list[dict[str, Any]]:
        """Pauses of *least* seconds."""
        return [each for each in self.events if each["event"] == "wait" and each["seconds"] >= least]

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class MirrorBench:
    """
    Runs ``ci-modelcache`` in this process, below *folder*, as a user with an *authority* and mirrors does, and checks what always holds.

    *files* are what a complete destination has. *secrets* must not be seen anywhere but where their owner put them.
    """

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.files: Mapping[str, bytes] = {}
        self.authority = ""
        self.mirrors: list[str] = []
        self.secrets: list[str] = []
        self.workers = 8
        self._capsys = capsys
        self._environ = monkeypatch
        self._runs = 0

    @property
    def destination(self) -> Path:
        return self.folder / "model"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def entrust(self, url: str, secret: str) -> None:
        """*secret* is the token for the host of *url*."""
        self._environ.setenv(token_variable(url.partition("://")[2]), secret)
        self.secrets.append(secret)

    def run(self, verb: str, *options: str | Path, deadline: str = "60s") -> Outcome:
        """``restore`` to a plain folder, without a store, or ``fetch`` to the embedded store, with a report that is read."""
        given: list[str | Path] = [REPO, "--store", self.store, "--deadline", deadline, "--workers", str(self.workers)]
        if verb == "restore":
            given += ["--to", self.destination, "--mode", "off"]
        for mirror in self.mirrors:
            given += ["--mirror", mirror]
        self._runs += 1
        report = self.folder / f"report-{self._runs}.jsonl"
        return self.command(verb, *given, *options, "--report", report, report=report)

    def command(self, verb: str, *options: str | Path, report: Path | None = None) -> Outcome:
        """Any command that knows an endpoint; *report* is what it was told to write."""
        argv = [verb, "--endpoint", self.authority, "-vv", "--json", *map(str, options)]
        self._environ.setenv("CI_MODELCACHE_STATE", str(self.state))
        self._capsys.readouterr()
        code = main(argv)
        out, err = self._capsys.readouterr()
        lines = report.read_text().splitlines() if report is not None and report.exists() else []
        return Outcome(code, out, err, tuple(json.loads(line) for line in lines))

    def check(self, outcome: Outcome) -> None:
        """What must hold after every run, whatever it met."""
        right = set(self.files.values())
        for path in self.folder.rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            if data not in right:
                assert not any(secret.encode() in data for secret in self.secrets), f"a token is in {path}"
        assert not any(secret in outcome.out + outcome.err for secret in self.secrets), "a token is shown"
        for name, content in files_in(self.destination).items():
            # At the deadline workers are left behind, each with a staged file that the next run removes.
            kept = PARTIAL in name or (outcome.code == 15 and STAGED in name)
            assert kept or self.files.get(name) == content, f"wrong bytes at {name}"
        for path in self.store.rglob("*"):
            assert PARTIAL not in path.name, f"{path} is half received and in the store"
        if outcome.code == 0:
            self._check_complete(outcome)

    def _check_complete(self, outcome: Outcome) -> None:
        left = [path for path in self.folder.rglob("*") if path.name.startswith((PARTIAL, STAGED))]
        assert left == [], outcome
        if self.destination.exists():
            assert files_in(self.destination) == dict(self.files)
        if self.store.exists():
            for path in (self.store / "blobs").rglob("*"):
                assert path.is_dir() or path.read_bytes() in self.files.values()

    def succeeds(self, verb: str, *options: str | Path, **more: Any) -> Outcome:
        """A run that must succeed."""
        outcome = self.run(verb, *options, **more)
        assert outcome.code == 0, outcome
        self.check(outcome)
        return outcome

    def fails(self, code: int, verb: str, *options: str | Path, **more: Any) -> Outcome:
        """A run that must fail with *code*."""
        outcome = self.run(verb, *options, **more)
        assert outcome.code == code, outcome
        self.check(outcome)
        return outcome


@pytest.fixture
def mirror_bench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MirrorBench]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        # Reading one takes a tenth of a second of each command, and nobody here speaks TLS.
        monkeypatch.delenv(name, raising=False)
    yield MirrorBench(tmp_path, capsys, monkeypatch)
    logging.getLogger("ci_modelcache").setLevel(logging.NOTSET)


QUICK = 1.0
"""Seconds of a window, and of the longest silence, for tests with `quick`."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of a second, not of eight, and pauses that are too short to wait for; what a mirror asks for is waited for in full."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ci_modelcache.") and hasattr(module, "WINDOW"):
            monkeypatch.setattr(module, "WINDOW", QUICK)
    assert watch.WINDOW == QUICK
    monkeypatch.setattr(http, "READ_SECONDS", QUICK)
    monkeypatch.setattr(health, "LASTING", QUICK / 2)
    monkeypatch.setattr(retry, "RetryPolicy", partial(retry.RetryPolicy, base=0.005, cap=0.02))


@pytest.fixture
def unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of a file of a few megabytes who is asked first is asked for all, and nobody else takes over a part of that.

    Otherwise a source that is late, as any may be on a busy machine, might never be read as far as to where it goes wrong.
    """
    monkeypatch.setattr(assemble, "_WORTH", 3600.0)
