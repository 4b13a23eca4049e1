"""The only module that measures a command: seconds, processor time, peak memory, and what the rest of the machine did meanwhile."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.speed.figures import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 1800.0
"""Seconds that one command may take."""
_LAUNCHER = Path(__file__).parent / "launcher.py"
_TOLD = 2000
"""Characters of what a failed command said."""


def measured(
    command: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    folder: Path,
    served_by: int | None = None,
    watched: Path | None = None,
) -> tuple[Sample, str]:
    """
    What *command* took, in *folder*, and what it printed; it must succeed.

    *served_by* is the process whose share of the work is counted apart; *watched* a file system whose fullest moment is wanted.
    """
    output, errors = folder / "stdout", folder / "stderr"
    order = {
        "command": [str(each) for each in command],
        "cwd": str(folder),
        "environ": dict(environ),
        "output": str(output),
        "errors": str(errors),
        "watched": None if watched is None else str(watched),
    }
    busy, served = _busy(), _cpu_of(served_by)
    told = json.loads(_launched(json.dumps(order)))
    store_cpu = _cpu_of(served_by) - served
    if told.pop("status") != 0:
        said = output.read_text(errors="replace")[-_TOLD:] + errors.read_text(errors="replace")[-_TOLD:]
        msg = f"{shlex.join(order['command'])} failed:\n{said}"  # type: ignore[arg-type]  # a list of text, in a mixed dict
        raise RuntimeError(msg)
    others = max(0.0, _busy() - busy - told["cpu"] - store_cpu)
    return Sample(**told, store_cpu=store_cpu, others_cpu=others), output.read_text(errors="replace")


def _launched(order: str) -> str:
    with subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, "-I", "-S", _LAUNCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            told, _ = process.communicate(order, timeout=PATIENCE)
        except BaseException:
            # All that it has started, or it would go on where nobody waits for it.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        msg = f"the launcher ended with {process.returncode}"
        raise RuntimeError(msg)
    return told


def _cpu_of(pid: int | None) -> float:
    """Seconds of processor time that process *pid* has used so far."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _busy() -> float:
    """Seconds that all cores together were busy since the machine began."""
    with Path("/proc/stat").open() as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
