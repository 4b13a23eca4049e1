"""AI model snapshots, content-addressed in object storage, restored and verified."""

import sys as _sys

if _sys.platform == "win32":
    # File locks, modes and atomic replacement of open files are POSIX here; without this the first one fails obscurely.
    _msg = "ci-modelcache runs on Linux and macOS; on Windows run it inside WSL or a container"
    raise ImportError(_msg)
