"""A build whose models are not in the store: behind mirrors that go wrong it succeeds in time, or fails in time and says why."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.demo.faults import Cut, files
from tests.parts.baking import REPO
from tests.parts.engine import PYTHON
from tests.parts.hub_faults import Silence, Stall, Status, always
from tests.parts.servers import free_ports
from tests.parts.upstreams import Distant

if TYPE_CHECKING:
    from pathlib import Path

    from tests.parts.baking import Project
    from tests.parts.engine import Engine
    from tests.parts.upstreams import Plan

# An engine, a program and base images are made by whoever is the first to need them.
pytestmark = pytest.mark.timeout(900)


def behind(project: Project, *mirrors: str, deadline: str) -> str:
    """A Dockerfile whose step must fetch the model: the store is another one, which is empty."""
    settings = project.folder / "modelcache.toml"
    head, models, rest = settings.read_text().partition("[[models]]")
    head = f'{head.replace(project.store, f"{project.store}-empty")}deadline = "{deadline}"\n'
    settings.write_text(head + "".join(f'[[mirrors]]\nurl = "{url}"\n' for url in mirrors) + models + rest)
    return project.cli("dockerfile", "--base", PYTHON, "--python-image", PYTHON)


def served(project: Project) -> Path:
    """The model as a folder."""
    for path, data in project.files.items():
        target = project.outside / "model" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return project.outside / "model"


def printed_by_step(output: str) -> list[tuple[float, str]]:
    """What the step that restores has printed: seconds since it began, and each line."""
    (step,) = set(re.findall(r"(?m)^#(\d+) [\d.]+ .*\berror: ", output)) or {"none"}
    return [(float(seconds), line) for seconds, line in re.findall(rf"(?m)^#{step} (\d+\.\d+) (.*)$", output)]


def test_behind_a_mirror_that_cuts_and_stalls_a_build_succeeds_within_the_deadline(
    engine: Engine, project: Project
) -> None:
    project.hub.faults.append(Status(status=503, when=always))
    plans: list[Plan] = [(Cut, {"after": 200_000, "times": 3}), (Stall, {"after": 100_000, "times": 2, "when": files})]
    with Distant(served(project), plans, repo=REPO) as mirror:
        dockerfile = behind(project, mirror.url, deadline="3m")
        began = time.monotonic()
        built = project.build(engine, dockerfile, no_cache=True)
        took = time.monotonic() - began
        sent = mirror.sent

    assert took < 180
    assert sent >= sum(map(len, project.files.values()))
    assert len(built.layer_of().files) == len(project.files)


def test_with_every_upstream_dead_a_build_fails_within_the_deadline_with_the_reason_last(
    engine: Engine, project: Project
) -> None:
    project.hub.faults.append(Silence(when=always))
    (nobody,) = free_ports(1)
    dockerfile = behind(project, f"http://127.0.0.1:{nobody}", deadline="20s")

    done = project.try_build(engine, dockerfile, no_cache=True)

    assert done.code != 0
    assert re.search(r"exit code: 15\b", done.output), done
    *_, (_, hint), (seconds, reason) = printed_by_step(done.output)
    assert reason.startswith("error: the deadline of 20s passed while restoring acme/tiny; where the time went: ")
    assert f"127.0.0.1:{nobody} (unavailable)" in reason
    assert hint.startswith("  hint: ")
    # The deadline, what it takes to start a container and Python, and the same once more for a busy machine.
    assert seconds < 50
