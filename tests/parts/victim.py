"""
Runs command lines in forked children and kills them, SIGKILL, at the n-th interesting system call.

A zygote: it imports everything once and forks for each job, so that hundreds of crashes take seconds. Jobs come as
JSON lines on stdin, ``{"argv": [...], "environ": {...}, "kill_at": n}``; each is answered by a line ``{"status": s, "calls": c}``, where s is
the exit code or the negative signal. Calls are counted by the profiler hook, in all threads, with no help from the product.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from types import BuiltinFunctionType, FrameType
from typing import Any

# Everything that a command imports later, so that a child starts in milliseconds.
import boto3  # noqa: F401  # loaded for the children
import cattrs  # noqa: F401  # loaded for the children
import filelock  # noqa: F401  # loaded for the children
import requests  # noqa: F401  # loaded for the children
import rich.progress  # noqa: F401  # loaded for the children
import tenacity  # noqa: F401  # loaded for the children

import ci_modelcache.cli.fetch
import ci_modelcache.cli.restore
import ci_modelcache.cli.save  # noqa: F401  # loaded for the children
from ci_modelcache.cli.main import main
from tests.parts.hurried import hurry

COUNTED = {
    "chmod", "close", "execute", "fchmod", "flock", "flush", "fsync", "ftruncate", "ioctl", "link", "mkdir", "open",
    "pread", "pwrite", "read", "recv_into", "remove", "rename", "replace", "rmdir", "send", "sendall", "stat", "symlink", "truncate", "unlink",
    "update", "utime", "write",
}  # fmt: skip  # a list of words


def run(argv: list[str], kill_at: int, report: int) -> None:
    """In the child: count calls, die at *kill_at* (0: never), else tell *report* how many there were and exit."""
    calls = itertools.count(1)
    last = [0]

    def profile(_frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and isinstance(argument, BuiltinFunctionType) and argument.__name__ in COUNTED:
            last[0] = next(calls)
            if last[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    threading.setprofile(profile)
    sys.setprofile(profile)
    status = main(argv)
    sys.setprofile(None)
    os.write(report, str(last[0]).encode())
    os._exit(status)


def serve() -> None:
    hurry(dead=0.05)  # the lease of one that was killed is not to delay the next
    for line in sys.stdin:
        job = json.loads(line)
        receive, report = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            try:
                os.environ.update(job["environ"])
                run(job["argv"], job["kill_at"], report)
            finally:
                os._exit(99)
        os.close(report)
        _, status = os.waitpid(child, 0)
        with os.fdopen(receive, "rb") as answers:
            calls = int(answers.read() or 0)
        sys.stdout.write(json.dumps({"status": os.waitstatus_to_exitcode(status), "calls": calls}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
