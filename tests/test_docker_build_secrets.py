"""What a build is lent leaves no trace, and a build that was lent nothing says what is missing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.parts.baking import EXAMPLES, credentials_file
from tests.parts.engine import PYTHON, Engine
from tests.parts.servers import READER

if TYPE_CHECKING:
    from tests.parts.baking import Built, Project
    from tests.parts.buildah import Builder
    from tests.parts.engine import Done

# An engine, a program and base images are made by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)


def check_no_trace(built: Built, *words: str) -> None:
    """None of *words* is in a layer, the configuration or the history, in what the build printed, or in the engine's log."""
    logs = built.done.output + (built.builder.log if isinstance(built.builder, Engine) else "")
    with built.builder.saved(built.image) as saved:
        for word in words:
            assert not saved.holds(word)
            assert word not in saved.history
            assert word not in logs


@pytest.mark.parametrize("example", ["direct", "run"])
def test_credentials_that_come_by_secret_leave_no_trace(builder: Builder, project: Project, example: str) -> None:
    built = project.build(builder, EXAMPLES / f"{example}.Dockerfile", no_cache=True, layers=False)

    assert built.find("models") is not None
    check_no_trace(built, *READER)


def test_presigned_urls_that_come_by_secret_leave_no_trace(builder: Builder, project: Project) -> None:
    listed = project.outside / "urls.json"
    project.cli("presign", "--output", listed)
    signatures = set(re.findall(r"X-Amz-Signature=(\w+)", listed.read_text()))
    assert len(signatures) == len(json.loads(listed.read_text())["objects"])

    built = project.build(builder, EXAMPLES / "urls.Dockerfile", no_cache=True, layers=False, secrets={"urls": listed})

    assert built.layer_of().files
    check_no_trace(built, *signatures)


def generated(project: Project) -> str:
    """A stage that restores, as ``ci-modelcache dockerfile`` writes it."""
    return project.cli("dockerfile", "--base", PYTHON, "--python-image", PYTHON)


def check_refused(done: Done) -> None:
    """The build failed as the step did, with 12, and what it says last is how to give what is missing, and why."""
    assert done.code != 0
    assert re.search(r"(exit code: |exit status )12\b", done.output), done
    (hint,) = set(re.findall(r"hint: (.+)\n[^\n]*\berror: .+ no credentials were found", done.output))
    assert "--secret id=aws,src=" in hint
    assert "--mount=type=secret,id=aws" in hint


def test_without_the_secret_the_step_ends_with_12_and_says_how_to_give_it(builder: Builder, project: Project) -> None:
    check_refused(project.try_build(builder, EXAMPLES / "direct.Dockerfile", secrets={}, no_cache=True, layers=False))


def test_a_generated_step_without_the_secret_says_the_same(engine: Engine, project: Project) -> None:
    check_refused(project.try_build(engine, generated(project), secrets={}, no_cache=True))


def test_credentials_that_are_not_right_are_refused_with_12_too(engine: Engine, project: Project) -> None:
    wrong = credentials_file(project.outside / "wrong", ("AKIDNOBODY0000000001", "a-secret-of-nobody"))

    done = project.try_build(engine, EXAMPLES / "direct.Dockerfile", secrets={"aws": wrong}, no_cache=True)

    assert re.search(r"exit code: 12\b", done.output), done
    assert "a-secret-of-nobody" not in done.output
