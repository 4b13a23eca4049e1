"""
What a new user copies first is what the tests run: the README's lines are those of the guides and of the first examples.

tests/test_action_runs.py and tests/test_gitlab_runs.py run these examples, cold and warm, and count what the Hub is asked.
"""

from __future__ import annotations

from textwrap import indent

import pytest
import yaml

from tests.parts.act import EXAMPLES as WORKFLOWS
from tests.parts.documents import ROOT, blocks
from tests.parts.gitlab_runner import EXAMPLES as PIPELINES

WORKFLOW, PIPELINE = blocks((ROOT / "README.md").read_text(), "yaml")


def test_the_readme_and_the_guides_begin_with_the_same_lines() -> None:
    assert blocks((ROOT / "docs" / "github.md").read_text(), "yaml")[0] == WORKFLOW
    assert blocks((ROOT / "docs" / "gitlab.md").read_text(), "yaml")[0] == PIPELINE


@pytest.mark.parametrize("lines", [WORKFLOW, PIPELINE], ids=["workflow", "pipeline"])
def test_what_is_to_be_copied_is_eight_lines(lines: str) -> None:
    assert len([line for line in lines.splitlines() if line.strip()]) == 8


def test_the_lines_for_a_workflow_are_those_of_the_first_example() -> None:
    assert indent(WORKFLOW, " " * 6) in (WORKFLOWS / "restore.yml").read_text()


def test_the_lines_for_a_pipeline_are_the_first_example() -> None:
    assert yaml.safe_load((PIPELINES / "restore.gitlab-ci.yml").read_text()) == yaml.safe_load(PIPELINE)


def test_the_lines_for_a_dockerfile_are_lines_of_an_example_in_their_order() -> None:
    """tests/test_docker_builds.py builds it."""
    (lines,) = blocks((ROOT / "README.md").read_text(), "dockerfile")
    example = iter((ROOT / "examples" / "docker" / "direct.Dockerfile").read_text().splitlines())
    assert all(line in example for line in lines.splitlines())
