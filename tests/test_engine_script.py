"""The script that starts Docker engines for tests: what is wrong with a call is said before anything is started."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.parts.documents import ROOT
from tests.parts.servers import program

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = ROOT / ".ci" / "engine"


def refused(*arguments: str | Path) -> str:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr


def test_shellcheck_finds_nothing() -> None:
    checked = subprocess.run([program("shellcheck"), SCRIPT], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["begin"], ["stop"], ["start", "a", "b"]])
def test_a_wrong_call_is_told_how_it_is_called(arguments: list[str]) -> None:
    assert "usage: " in refused(*arguments)


def test_only_what_it_started_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    assert "no engine was started in" in refused("stop", tmp_path)
    assert "no such folder" in refused("stop", tmp_path / "nowhere")
    assert (tmp_path / "precious").exists()


def test_a_folder_whose_sockets_would_have_too_long_a_name_is_refused(tmp_path: Path) -> None:
    assert "characters" in refused("start", tmp_path / ("long" * 20))


def test_an_engine_that_runs_is_not_started_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("e")
    (folder / "pid").write_text("1\n")
    assert "has been started" in refused("start", folder)
