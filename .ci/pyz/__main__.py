# ruff: noqa: INP001  # the beginning of a zip, of which .ci/pyz is the root
"""The first lines that run of ci-modelcache.pyz: a Python that is too old can read them, and is told so."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # the older ones are whom this is for
    sys.stderr.write(
        "error: ci-modelcache needs Python 3.11 or newer, and %s is Python %d.%d\n"  # noqa: UP031  # for Python 3.6 too
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    sys.exit(2)

# Before anything else is imported: what Python writes beside its own library would be part of an image.
sys.dont_write_bytecode = True

from pathlib import Path  # noqa: E402  # not before the above

from ci_modelcache_pyz.start import run  # noqa: E402  # as above

if __name__ == "__main__":
    sys.exit(run(Path(sys.path[0]).absolute()))
