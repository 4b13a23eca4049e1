"""A build that is lent a list of URLs and nothing else: it needs no credentials, and leaves no trace of the list."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.parts.baking import EXAMPLES, PLACE, Project, baking
from tests.parts.documents import ROOT, blocks
from tests.parts.engine import PYTHON
from tests.parts.urls import secrets_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.engine import Engine
    from tests.parts.servers import S3Server

FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": bytes(range(256)) * 3000}
GUIDE = (ROOT / "docs" / "presign.md").read_text()


@pytest.fixture
def project(tmp_path: Path, seaweedfs_server: S3Server, single_file: Path) -> Iterator[Project]:
    """A project that lends its builds a list of URLs, and no credentials."""
    with baking(tmp_path, seaweedfs_server, single_file, FILES) as project:
        project.secrets.clear()
        project.secrets["urls"] = project.outside / "urls.json"
        project.cli("presign", "-o", project.secrets["urls"], "--expires", "2h")
        project.forget()
        yield project


def guided() -> str:
    """The Dockerfile of the guide, on an image that is here."""
    (text,) = blocks(GUIDE, "dockerfile")
    assert text.count("python:3.12-slim") == 2
    return text.replace("python:3.12-slim", PYTHON)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["guide", "example"])
def test_a_build_restores_by_urls_and_leaves_no_trace_of_them(source: str, engine: Engine, project: Project) -> None:
    text = guided() if source == "guide" else EXAMPLES / "urls.Dockerfile"
    built = project.build(engine, text, no_cache=True)
    assert built.layer_of().files == {
        f"{PLACE}/{path}": hashlib.sha256(data).hexdigest() for path, data in FILES.items()
    }
    assert {method for method, _ in project.asked} == {"GET"}
    signatures = secrets_of(project.secrets["urls"].read_text())
    assert signatures
    with engine.saved(built.image) as saved:
        assert not any(saved.holds(signature) for signature in signatures)
    assert not any(signature in built.done.output for signature in signatures)


@pytest.mark.timeout(600)
def test_a_build_that_is_not_lent_the_list_says_how_it_is_lent(engine: Engine, project: Project) -> None:
    done = project.try_build(engine, guided(), secrets={}, no_cache=True)
    assert done.code != 0
    assert "there is no /run/secrets/urls: the secret urls was not given to this build" in done.output
    assert "--secret id=urls,src=urls.json" in done.output
    assert project.asked == []


@pytest.mark.timeout(600)
def test_other_urls_for_the_same_lock_are_no_reason_to_build_again(engine: Engine, project: Project) -> None:
    first = project.build(engine, guided())
    project.cli("presign", "-o", project.secrets["urls"], "--expires", "3h")
    project.forget()
    again = project.build(engine, guided())
    assert again.layer_of().diff_id == first.layer_of().diff_id
    assert project.asked == []


@pytest.mark.timeout(600)
def test_the_engine_takes_no_secret_larger_than_presign_warns_of(engine: Engine, project: Project) -> None:
    secret = project.secrets["urls"]
    secret.write_bytes(secret.read_bytes() + b" " * 500 * 1024)
    done = project.try_build(engine, guided(), no_cache=True)
    assert done.code != 0
    assert "500" in done.output
