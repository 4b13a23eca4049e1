"""The only module that starts clients: whole processes, with an environment of their own, measured from outside."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from benchmarks.mirrors.entries import Client, End, Entry
from benchmarks.mirrors.hubs import REPO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SNAPSHOT = "import sys, huggingface_hub; huggingface_hub.snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
_RAISED = re.compile(r"^(?:[a-z_0-9]+\.)*([A-Z]\w+)(?=:|$)", re.MULTILINE)
"""The last line of a traceback begins with the class of the exception."""
_LOOK = 0.01


@frozen
class Order:
    """What one run is to do: *entry*, with Hubs at *urls*, in *folder*; no longer than *patience* seconds."""

    entry: Entry
    urls: Sequence[str]
    folder: Path
    patience: float

    @property
    def target(self) -> Path:
        """Where the files go."""
        return self.folder / "model"


@frozen
class Done:
    """How a process ended (*status* None: killed), what it *said*, and what it took; *transfer* and *error* as its report has them."""

    status: int | None
    said: str
    seconds: float
    cpu: float
    busy: float
    transfer: float | None
    error: str


def download(order: Order, *, until: Callable[[], bool] | None = None) -> Done:
    """Carry *order* out; killed at once when *until* comes true."""
    order.folder.mkdir(parents=True, exist_ok=True)
    idle, whole = _ticks()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  # the command line is made below
        _command(order),
        env=_environment(order),
        cwd=order.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while until is not None and process.poll() is None and not until():
                time.sleep(_LOOK)
            if until is not None:
                process.kill()
            _, said = process.communicate(timeout=order.patience)
            status: int | None = process.returncode if process.returncode >= 0 else None
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            status = None
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    idle, whole = (now - then for now, then in zip(_ticks(), (idle, whole), strict=True))
    transfer, error = _told(order) if order.entry.client is Client.OURS else (None, _raised(said))
    return Done(
        status,
        said,
        seconds,
        cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        busy=1 - idle / max(1, whole),
        transfer=transfer,
        error="" if status == 0 else error,
    )


def judged(done: Done, order: Order, digests: Mapping[str, str]) -> End:
    """How it ended, after a look at the bytes: *digests* are the SHA-256 of the files by path."""
    if done.status is None:
        return End.KILLED
    if done.status != 0:
        return End.FAILED
    right = all(_sha256(order.target / path) == digest for path, digest in digests.items())
    return End.OK if right else End.CORRUPT


def _command(order: Order) -> list[str]:
    entry = order.entry
    if entry.client is Client.THEIRS:
        return [sys.executable, "-c", _SNAPSHOT, REPO, str(order.target)]
    mirrors = [part for number in entry.mirrors for part in ("--mirror", order.urls[number])]
    bound = [] if entry.connections is None else ["--workers", str(entry.connections)]
    command = ["restore", REPO, "--to", str(order.target), "--mode", "off", "--endpoint", order.urls[entry.asks]]
    return [sys.executable, "-m", "ci_modelcache", *command, *mirrors, *bound, "--report", str(_report(order))]


def _environment(order: Order) -> Mapping[str, str]:
    """Nothing of ours: no proxies, no tokens, no settings."""
    home = order.folder / "home"
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CI_MODELCACHE_STATE": str(home / "state"),
        "HF_ENDPOINT": order.urls[order.entry.asks],
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _report(order: Order) -> Path:
    return order.folder / "report.jsonl"


def _told(order: Order) -> tuple[float | None, str]:
    """Seconds that the files took and the class of the error that ended it, as the report of the last command has them."""
    events: list[dict[str, Any]] = []
    if _report(order).exists():
        for line in _report(order).read_text().splitlines():
            event = json.loads(line)
            events = [] if event["event"] == "run" else [*events, event]
    took = [event["seconds"] for event in events if event["event"] == "file"]
    ended = [event["result"] for event in events if event["event"] == "snapshot"]
    return max(took, default=None), ended[-1] if ended else ""


def _raised(said: str) -> str:
    found = _RAISED.findall(said)
    return found[-1] if found else ""


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ticks() -> tuple[int, int]:
    """Ticks that all cores were idle, and all there were, since the machine began."""
    with Path("/proc/stat").open() as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
