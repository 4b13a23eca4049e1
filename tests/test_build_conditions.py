"""
What a step of a build finds: no terminal, no home, nothing that may be written but the destination; and what it leaves there.

Each command runs in name spaces of its own, under the host name of BuildKit's steps, with an empty /dev/shm and the destination
in /mnt. Real builds are in tests/test_in_build.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from tests.parts.verbs import write_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ci_modelcache.demo.hub import LoopbackHub

FILES = {"config.json": b"{}\n", "onnx/model.onnx": b"graph" * 1000, "empty.txt": b""}
REPO = "acme/tiny"
AS_A_BUILD = "hostname buildkitsandbox; mount -t tmpfs none /dev/shm; mount -t tmpfs none /mnt; mkdir /mnt/home; "
NO_PLACE = "for each in /tmp /var/tmp; do mount --bind $each $each; mount -o remount,bind,ro $each; done; "
READ_ONLY_HOME = "mount -t tmpfs -o ro none /mnt/home; "
WITH_A_TIER = (
    "mount -t tmpfs none /var/cache; mkdir /var/cache/ci-modelcache; mount -t tmpfs none /var/cache/ci-modelcache; "
)
RESTORE = '"$PYTHON" -m ci_modelcache restore --locked --to /mnt/out/models'
LEFT = "; code=$?; find /mnt/out -printf '%P %m %T@\\n' | sort; echo memory: $(ls -A /dev/shm); exit $code"
COMPLETE = [
    " 755 0.0000000000",
    "models 755 0.0000000000",
    "models/acme 755 0.0000000000",
    "models/acme/tiny 755 0.0000000000",
    "models/acme/tiny/config.json 644 0.0000000000",
    "models/acme/tiny/empty.txt 644 0.0000000000",
    "models/acme/tiny/onnx 755 0.0000000000",
    "models/acme/tiny/onnx/model.onnx 644 0.0000000000",
    "memory:",
]


@frozen
class Steps:
    """A project in *folder* with a lock, and a *store* that has its model."""

    folder: Path
    store: Path

    def run(
        self, script: str, env: Mapping[str, str] | None = None, *, build: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """How *script* ended, with *env* and nothing else but a PATH; a variable that is empty is not there."""
        given = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "HOME": "/mnt/home"}
        given |= {"CI_MODELCACHE_STORE": str(self.store), "CI_MODELCACHE_OFFLINE": "1", **(env or {})}
        prefix = AS_A_BUILD if build else AS_A_BUILD.replace("buildkitsandbox", "machine")
        return subprocess.run(
            [
                "unshare",
                "--uts",
                "--mount",
                "--propagation=private",
                "bash",
                "-u",
                "-c",
                f"set -e; {prefix}set +e; {script}",
            ],
            cwd=self.folder,
            env={name: value for name, value in given.items() if value},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            start_new_session=True,  # no terminal
        )


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    folder = tmp_path_factory.mktemp("project")
    made = Steps(folder, folder / "store")
    write_files(folder / "model", FILES)
    (folder / "modelcache.toml").write_text(f'[[models]]\nrepo = "{REPO}"\n')
    for arguments in (("save", "model", REPO), ("lock",)):
        done = made.run(f'"$PYTHON" -m ci_modelcache {" ".join(arguments)} --mode read-write', build=False)
        assert done.returncode == 0, done.stderr
    return made


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("conditions", "env"),
    [
        ("", {}),
        (READ_ONLY_HOME, {}),
        ("", {"HOME": ""}),
        ("", {"HOME": "/nowhere"}),
        (NO_PLACE + READ_ONLY_HOME, {}),
        (NO_PLACE, {"HOME": "", "TMPDIR": "/nowhere", "LC_ALL": "C"}),
        ("umask 0077; ", {"PYTHONIOENCODING": "ascii"}),
        ("umask 0000; chmod 2777 /mnt; ", {}),
    ],
    ids=["plain", "read-only-home", "no-home", "absent-home", "read-only-all", "nothing-at-all", "private", "setgid"],
)
def test_a_restore_succeeds_and_leaves_the_model_and_nothing_else(
    steps: Steps, conditions: str, env: dict[str, str]
) -> None:
    done = steps.run(conditions + RESTORE + LEFT, env)
    assert lines(done) == [f"/mnt/out/models/{REPO}", *COMPLETE]
    assert "warning" not in done.stderr
    assert "\x1b" not in done.stderr


def test_the_hub_cache_is_left_in_order_too(steps: Steps) -> None:
    done = steps.run(
        f'"$PYTHON" -m ci_modelcache restore --locked >/dev/null && {RESTORE.partition(" --to")[0]} >/dev/null{LEFT}',
        {"HF_HUB_CACHE": "/mnt/out/hub"},
    )
    *found, memory = lines(done)
    assert memory == "memory:"
    assert {line.split()[-1] for line in found} == {"0.0000000000"}
    assert {line.split()[-2] for line in found} == {"755", "644", "777"}
    names = {line.split()[0].rpartition("/")[2] for line in found}
    assert {"refs", "CACHEDIR.TAG", "main"} <= names
    assert ".ci-modelcache" not in names


def test_the_folder_above_the_destination_keeps_its_time(steps: Steps) -> None:
    done = steps.run(f"touch -d @1500000000 /mnt; {RESTORE} >/dev/null && stat -c %Y /mnt")
    assert lines(done) == ["1500000000"]


def test_where_nothing_may_be_written_the_error_says_what_to_set(steps: Steps) -> None:
    """And with that it works."""
    no_memory = "mount -o remount,ro /dev/shm; "
    done = steps.run(NO_PLACE + READ_ONLY_HOME + no_memory + RESTORE)
    assert done.returncode == 2
    assert "no folder takes the notes of this run: /dev/shm: Read-only file system; /tmp: " in done.stderr
    hint, reason = done.stderr.splitlines()[-2:]  # the reason last: some builders show one line
    assert hint.startswith("  hint: set CI_MODELCACHE_STATE to a folder that may be written")
    assert reason.startswith("error: no folder takes the notes")
    again = steps.run(NO_PLACE + READ_ONLY_HOME + no_memory + RESTORE + LEFT, {"CI_MODELCACHE_STATE": "/mnt/state"})
    assert lines(again)[1:] == COMPLETE


def test_notes_are_where_somebody_said_and_stay_there(steps: Steps) -> None:
    done = steps.run(f"{RESTORE} >/dev/null && ls /mnt/state", {"CI_MODELCACHE_STATE": "/mnt/state"})
    assert "receipts.sqlite" in lines(done)


def test_a_tier_is_given_blobs_and_no_notes_for_other_builds_write_there_too(steps: Steps) -> None:
    found = lines(
        steps.run(f"{WITH_A_TIER}{RESTORE} >/dev/null && find /var/cache/ci-modelcache -type f; ls -A /dev/shm")
    )
    assert found
    assert {Path(name).parts[4] for name in found} == {"blobs"}


def test_in_a_tier_that_may_not_be_written_there_are_none(steps: Steps) -> None:
    script = (
        f"{WITH_A_TIER}mount -o remount,ro /var/cache/ci-modelcache; {RESTORE} --tier /var/cache/ci-modelcache{LEFT}"
    )
    assert lines(steps.run(script))[1:] == COMPLETE


def test_nothing_is_left_of_a_failure(steps: Steps) -> None:
    done = steps.run('"$PYTHON" -m ci_modelcache restore acme/other --to /mnt/out; echo $?; ls -A /dev/shm /mnt/home')
    assert lines(done) == ["10", "/dev/shm:", "", "/mnt/home:"]


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_nothing_is_left_of_a_command_that_is_interrupted(steps: Steps, silent: str, name: str) -> None:
    script = f"""
        "$PYTHON" -c 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)
from ci_modelcache.cli.main import main; sys.exit(main())' restore acme/other --to /mnt/out --endpoint {silent} &
        until [ -n "$(ls -A /dev/shm)" ]; do sleep 0.1; done
        sleep 0.5; kill -{name} $!; wait $!; echo $?; ls -A /dev/shm /mnt/home
    """
    done = steps.run(script, {"CI_MODELCACHE_OFFLINE": "", "CI_MODELCACHE_STORE": ""})
    assert lines(done) == ["130", "/dev/shm:", "", "/mnt/home:"]


def test_without_a_store_none_is_made(steps: Steps, hub: LoopbackHub) -> None:
    """Its default is in a home that becomes a part of the image, or may not be written."""
    hub.add_repo("acme/other", {"main": FILES})
    restore = f'"$PYTHON" -m ci_modelcache restore acme/other --to /mnt/out/other --endpoint {hub.url} >/dev/null'
    script = f"{restore} && ls -A /mnt/home /mnt/out/other"
    done = steps.run(script, {"CI_MODELCACHE_OFFLINE": "", "CI_MODELCACHE_STORE": ""})
    assert lines(done) == ["/mnt/home:", "", "/mnt/out/other:", "config.json", "empty.txt", "onnx"]
    done = steps.run(READ_ONLY_HOME + script, {"CI_MODELCACHE_OFFLINE": "", "CI_MODELCACHE_STORE": ""})
    assert lines(done)[0] == "/mnt/home:"


@pytest.mark.parametrize("build", [True, False])
def test_no_bytecode_is_written(steps: Steps, *, build: bool) -> None:
    """But of what is imported until it is known that this is a build."""
    script = f"{RESTORE} >/dev/null; find /mnt/bytecode -path '*ci_modelcache/verbs*' -name '*.pyc' | wc -l"
    (count,) = lines(steps.run(script, {"PYTHONPYCACHEPREFIX": "/mnt/bytecode"}, build=build))
    assert (count == "0") is build


def test_the_settings_tell_of_it(steps: Steps) -> None:
    (line,) = [each for each in lines(steps.run('"$PYTHON" -m ci_modelcache config')) if each.startswith("state ")]
    assert line.split(maxsplit=2)[1].startswith("/dev/shm/ci-modelcache-")
    assert line.endswith("default in the build of an image: removed at the end")
