"""
The command line with leases that go faster than those of real jobs, in as many processes as are wanted, all at the same moment.

``python -m tests.parts.hurried DEAD COUNT ARGUMENTS...``: who is silent for DEAD seconds counts as dead. With a COUNT of 1 it is the command
itself. Else so many children are forked, ``{n}`` in their arguments is the number of each, and what they say goes into ``{n}.out`` and
``{n}.err`` in the current folder; the exit codes are printed.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

# Everything that a command imports later, so that children do nothing but work, at the same time.
import boto3  # noqa: F401  # loaded for the children
import cattrs  # noqa: F401  # loaded for the children
import filelock  # noqa: F401  # loaded for the children
import requests  # noqa: F401  # loaded for the children

import ci_modelcache.cli.fetch
import ci_modelcache.cli.restore
import ci_modelcache.cli.warm  # noqa: F401  # loaded for the children
import ci_modelcache.verbs.step as steps
from ci_modelcache.cache.pace import Pace
from ci_modelcache.cli.main import main


def hurry(*, dead: float) -> None:
    """From now on every step of this process has such leases."""
    pace = Pace(beat=min(0.5, dead / 4), dead=dead, poll=min(0.3, dead / 4), settle=min(0.3, dead / 4))
    steps.Step = partial(steps.Step, pace=pace)  # type: ignore[assignment,misc]  # a step in all but its name


def _child(number: int, argv: list[str]) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), descriptor)
    os.environ["CI_MODELCACHE_STATE"] = str(Path(f"state-{number}").absolute())
    status = main([argument.replace("{n}", str(number)) for argument in argv])
    sys.stdout.flush()
    os._exit(status)


def crowd(count: int, argv: list[str]) -> list[int]:
    """The exit codes of *count* processes that run *argv* at the same time, each with a state folder of its own."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                _child(number, argv)
            finally:
                os._exit(99)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    hurry(dead=float(sys.argv[1]))
    if sys.argv[2] == "1":
        sys.exit(main(sys.argv[3:]))
    sys.stdout.write(" ".join(map(str, crowd(int(sys.argv[2]), sys.argv[3:]))))
