"""The guide about images shows the Dockerfiles that are built, and what it says of them is so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.parts.baking import EXAMPLES
from tests.parts.documents import ROOT

if TYPE_CHECKING:
    from pathlib import Path

GUIDE = (ROOT / "docs" / "docker.md").read_text()
SHOWN = dict(re.findall(r"^<!-- example: (\S+) -->\n```dockerfile\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_the_guide_shows_every_example_as_it_is(path: Path) -> None:
    assert SHOWN[path.stem] == path.read_text()


def test_no_dockerfile_of_the_guide_is_built_by_nobody() -> None:
    assert set(SHOWN) == {path.stem for path in EXAMPLES.glob("*.Dockerfile")}
    assert GUIDE.count("```dockerfile") == len(SHOWN)
