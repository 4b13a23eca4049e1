"""The script that ``ci-modelcache completion bash`` prints, in a real bash: what TAB offers there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.cli.main import COMMANDS, main
from tests.parts.reference import command_of

if TYPE_CHECKING:
    from pathlib import Path

# What bash does at TAB: find the function that `complete` registered, set the words, call it, offer COMPREPLY.
TAB = """
set -eu
eval "$(cat completion.bash)"
registered=$(complete -p ci-modelcache)
[[ $registered =~ -F\\ ([a-z_]+)\\ ci-modelcache$ ]]
COMP_WORDS=(ci-modelcache "$@") COMP_CWORD=$# COMPREPLY=()
"${BASH_REMATCH[1]}" ci-modelcache "${!#}" "${COMP_WORDS[$#-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the script, and with ci-modelcache as a program in ``bin``."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    program = tmp_path / "bin" / "ci-modelcache"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ci_modelcache "$@"\n')
    program.chmod(0o755)
    return tmp_path


def _offered(folder: Path, *words: str) -> list[str]:
    """What bash offers after ``ci-modelcache`` and *words*, of which the last one is being typed."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_nothing_typed_yet_offers_every_command(folder: Path) -> None:
    assert _offered(folder, "") == list(COMMANDS)


def test_two_dashes_offer_every_option_of_the_command(folder: Path) -> None:
    flags = {name for param in command_of("restore").params for name in (*param.opts, *param.secondary_opts)}
    assert set(_offered(folder, "restore", "--")) == {name for name in flags if name.startswith("--")} | {"--help"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["re"], ["replicate", "restore"]),
        (["pre"], ["presign"]),
        (["presign", "--exp"], ["--expires"]),
        (["lock", "--c"], ["--ca-bundle", "--check", "--ci"]),
        (["restore", "--mode", "r"], ["read", "read-write"]),
        (["--json", "ver"], ["verify"]),
        (["docker", "i"], ["inspect"]),
        (["docker", "context", "--tar", "x", "--mode", "r"], ["read", "read-write"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=" ".join,
)
def test_what_was_begun_is_completed(folder: Path, words: list[str], offered: list[str]) -> None:
    assert sorted(_offered(folder, *words)) == sorted(offered)


def test_a_mistyped_command_writes_no_error_into_the_prompt(folder: Path) -> None:
    assert _offered(folder, "nonsense", "x") == []
