"""The only module that knows which files of a snapshot may run code of their author when a library loads them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci_modelcache.model.manifest import Manifest

_CODE = frozenset({".py", ".so", ".dll", ".dylib", ".sh"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})
"""
What `torch.load` and `joblib.load` unpickle, which runs what the file says (Python docs, module pickle, warning).

``.bin`` has other meanings too: which one, only its bytes tell.
"""


def runs_code(manifest: Manifest) -> tuple[str, ...]:
    """The paths in *manifest* of programs, and of files in formats that can hold one; in the manifest's order."""
    return tuple(
        file.path
        for file in manifest.files
        if file.executable or PurePosixPath(file.path).suffix.lower() in _CODE | _PICKLES
    )
