"""``python -m ci_modelcache`` is ``ci-modelcache``: the only module that is a process from its start to its end."""

from __future__ import annotations

import gc
import sys

_RARELY = 10_000, 20, 20
"""
For `gc.set_threshold`: how many objects more there must be before garbage is looked for.

To import what a restore needs makes some 200,000 objects, none of them garbage; by Python's own 700 they are looked at 300 times, which takes 40 ms.
"""


def main() -> int:
    """Run the command line of this process; returns its exit code."""
    gc.set_threshold(*_RARELY)
    from ci_modelcache.cli.main import main as run  # noqa: PLC0415  # what is above is for its imports, too

    try:
        return run()
    finally:
        gc.freeze()  # the system takes all memory back at once: to look for garbage in it first takes 60 ms


if __name__ == "__main__":
    sys.exit(main())
