"""
The only module that is the parent of what is measured: a process so small that none of its memory is taken for the child's.

Linux counts what a process had mapped before its exec as its own peak, and a child of a process with numpy in it would begin
with hundreds of megabytes. It reads ``{"command", "cwd", "environ", "output", "errors", "watched"}`` as JSON from its input,
and writes what the command took to its output. *watched* is a file system whose fullest moment is wanted.
"""

import json
import os
import sys
import time

_LOOK = 0.003
"""Seconds between two looks at a file system."""


def main() -> None:
    """Run the command and tell of it."""
    order = json.load(sys.stdin)
    os.chdir(order["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, order["output"], flags, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, order["errors"], flags, 0o644),
    ]
    watched, command = order["watched"], order["command"]
    before = fullest = _used(watched) if watched else 0
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, order["environ"], file_actions=files)
    while watched and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        fullest = max(fullest, _used(watched))
        time.sleep(_LOOK)
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    told = {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "memory": used.ru_maxrss * 1024,
        "disk": fullest - before if watched else None,
    }
    json.dump(told, sys.stdout)


def _used(folder: str) -> int:
    """Bytes in use on the file system of *folder*."""
    told = os.statvfs(folder)
    return (told.f_blocks - told.f_bfree) * told.f_frsize


if __name__ == "__main__":
    main()
