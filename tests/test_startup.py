"""What a command that has little to do leaves alone: modules, the network, the store. Counts, not times; times are the benchmark's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

pytestmark = pytest.mark.timeout(300)  # a dozen processes, on a machine that may be busy

REPO = "acme/quick"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 100_000,
    **{f"shards/{n}.bin": b"%d" % n for n in range(200)},
}
SPY = """
import json, sys
seen = {"connections": 0, "opened": []}
def audit(event, arguments):
    if event == "socket.connect":
        seen["connections"] += 1
    elif event == "open" and isinstance(arguments[0], str):
        seen["opened"].append(arguments[0])
sys.addaudithook(audit)
from ci_modelcache.cli.main import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "modules": sorted(sys.modules), **seen}), file=sys.stderr)
"""
NETWORK = {"boto3", "botocore", "requests", "urllib3", "ssl"}
"""What only those need who ask somebody."""
WORK = {"tenacity", "cryptography", "ci_modelcache.verbs.completing", "ci_modelcache.verbs.deliver"}
"""What only those need who bring bytes."""
NOBODY = "http://127.0.0.1:9"
"""Where nobody listens."""


def run(home: Path, *arguments: str | Path, **environ: str) -> dict[str, Any]:
    """What the command did, besides succeeding; "stdout" is what it printed."""
    clean = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "CI_MODELCACHE_ENDPOINT": NOBODY,
        "CI_MODELCACHE_ENDPOINT_URL": NOBODY,
        "CI_MODELCACHE_REGION": "nowhere-1",
        **environ,
    }
    command = [sys.executable, "-c", SPY, *map(str, arguments)]
    done = subprocess.run(command, cwd=home, env=clean, capture_output=True, text=True, timeout=120, check=False)
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    return {**found, "modules": set(found["modules"]), "stdout": done.stdout}


@attrs.frozen
class Scene:
    """A model of which *commit* was restored from the folder store of *home* into ``model`` and, by a lock, into its Hub cache."""

    home: Path
    commit: str

    def again(self, *arguments: str | Path, store: str = "") -> dict[str, Any]:
        """What one more restore does, which finds everything complete."""
        done = run(self.home, "--json", "restore", *arguments, "--store", store or self.home / "store")
        assert [one["result"] for one in json.loads(done["stdout"])["snapshots"]] == ["local"]
        return done


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    home = tmp_path_factory.mktemp("home")
    for path, data in FILES.items():
        (home / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (home / "source" / path).write_bytes(data)
    (home / "modelcache.toml").write_text(f'[[models]]\nrepo = "{REPO}"\n')
    store = ("--store", home / "store")
    saved = run(home, "save", home / "source", REPO, *store)
    run(home, "restore", REPO, "--to", home / "model", *store)
    run(home, "lock", *store)
    run(home, "restore", "--locked", *store)
    return Scene(home, saved["stdout"].strip().rpartition("@")[2])


def test_a_pinned_revision_that_is_complete_needs_no_store_and_no_hub(scene: Scene) -> None:
    """Not even one that exists: nobody listens at either."""
    done = scene.again(f"{REPO}@{scene.commit}", "--to", scene.home / "model", store="s3://no-such-bucket")
    assert done["connections"] == 0
    assert done["modules"].isdisjoint(NETWORK | WORK)


def test_what_a_lock_names_and_is_complete_needs_no_store_and_no_hub(scene: Scene) -> None:
    done = scene.again("--locked", store="s3://no-such-bucket")
    assert done["connections"] == 0
    assert done["modules"].isdisjoint(NETWORK | WORK)


def test_a_branch_that_the_store_knows_and_is_complete_needs_what_reads_the_store_and_no_more(scene: Scene) -> None:
    done = scene.again(REPO, "--to", scene.home / "model")
    assert done["connections"] == 0
    assert done["modules"].isdisjoint(NETWORK | WORK)


def test_a_complete_file_is_opened_once_and_not_read(scene: Scene) -> None:
    """To see whether a receipt fits takes one look; 202 files must not cost several."""
    done = scene.again(f"{REPO}@{scene.commit}", "--to", scene.home / "model")
    opened = Counter(path for path in done["opened"] if Path(path).is_relative_to(scene.home / "model"))
    assert opened == {str(scene.home / "model" / path): 1 for path in FILES}


def test_help_of_a_command_imports_no_verb(scene: Scene) -> None:
    for arguments in (["restore", "--help"], ["--help"], ["--version"]):
        modules = run(scene.home, *arguments)["modules"]
        assert modules.isdisjoint(NETWORK | WORK | {"ci_modelcache.verbs.restore", "cattrs", "importlib.metadata"})


def test_a_process_does_not_look_for_garbage_among_what_it_imports() -> None:
    """Python would look some three hundred times, which takes longer than to do what was asked."""
    code = (
        "import atexit, gc, sys; sys.argv[1:] = ['restore', '--help']; gc.collect(); before = [each['collections'] for each in gc.get_stats()]\n"
        "from ci_modelcache.__main__ import main\n"
        "code = main(); after = [each['collections'] for each in gc.get_stats()]\n"
        "print(code, sum(after) - sum(before), gc.get_freeze_count() > 0, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    code_of_exit, looked, frozen = done.stderr.split()
    assert code_of_exit == "0"
    assert int(looked) < 20
    assert frozen == "True"
