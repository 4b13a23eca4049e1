"""The guides about mirrors and their tokens tell the truth: what they show runs, and prints what they show."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.health import _BLAME, Cause, Health
from ci_modelcache.sources.http import HttpSession
from ci_modelcache.sources.standing import Standing
from ci_modelcache.sources.tokens.exchange import Grant
from ci_modelcache.sources.tokens.parse import _OPTIONS, Means, provider_named
from ci_modelcache.sources.tokens.vault import open_vault
from tests.parts.documents import ROOT, blocks, rows, shape, shown
from tests.parts.hub_faults import Poison, Status
from tests.parts.messages import messages
from tests.parts.sites import FolderSite

if TYPE_CHECKING:
    from collections.abc import Iterator

MIRRORS = (ROOT / "docs" / "mirrors.md").read_text()
TOKENS = (ROOT / "docs" / "tokens.md").read_text()
HUBS = ("https://hub.internal", "https://hf-mirror.example", "https://huggingface.co")
NEAR, FAR, AUTHORITY = HUBS
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 20_000}


@frozen
class World:
    """A loopback Hub for each address of the guide, and a *folder* to work in."""

    hubs: dict[str, LoopbackHub]
    folder: Path

    def here(self, text: str) -> str:
        """*text* with our addresses in place of those of the guide."""
        for url, hub in self.hubs.items():
            text = text.replace(url, hub.url)
        return text

    def there(self, text: str) -> str:
        """*text* with the guide's addresses in place of ours."""
        for url, hub in self.hubs.items():
            text = text.replace(hub.url, url)
        return text

    def run(self, program: list[str]) -> str:
        """What *program*, in words of the guide, prints."""
        bin_folder = self.folder / "bin"
        bin_folder.mkdir(exist_ok=True)
        tool = bin_folder / "ci-modelcache"
        tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ci_modelcache "$@"\n')
        tool.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": self.hubs[AUTHORITY].url,
        }
        command = [self.here(part) for part in program]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return self.there(done.stdout)

    def shell(self, snippet: str) -> str:
        """The same for a snippet of shell."""
        return self.run(["bash", "-euo", "pipefail", "-c", snippet])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as running:
        hubs = {url: running.enter_context(LoopbackHub(cdn=False)) for url in HUBS}
        for hub in hubs.values():
            repository = hub.add_repo("org/name", {"main": FILES})
            repository.tags["v1.0"] = repository.branches["main"]
        yield World(hubs, tmp_path)


# --- mirrors.md


def test_the_first_example_which_the_readme_has_too_restores_from_the_mirrors(world: World) -> None:
    restoring, _ = blocks(MIRRORS, "sh")
    assert restoring in blocks((ROOT / "README.md").read_text(), "sh")
    world.hubs[AUTHORITY].faults.append(Status(status=503))
    (path,) = world.shell(restoring).splitlines()
    assert (Path(path) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_folder_filled_as_shown_is_a_mirror(world: World) -> None:
    _, filling = blocks(MIRRORS, "sh")
    world.shell(filling)
    world.hubs[AUTHORITY].faults.append(Status(status=404))
    with FolderSite(world.folder / "web") as site:
        line = f"ci-modelcache restore org/name --to model --store other --mirror files+{site.url} --json"
        (report,) = json.loads(world.shell(line))["snapshots"]
    assert report["mirrors"] == {f"files+{site.url}": sum(map(len, FILES.values()))}


def test_the_settings_of_the_guide_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project,) = blocks(MIRRORS, "toml")
    (tmp_path / "modelcache.toml").write_text(project)
    monkeypatch.chdir(tmp_path)
    assert main(["config", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["deadline"]["value"] == 600  # seconds
    assert [(each["url"], each["priority"], each["max_rate"]) for each in settings["mirrors"]["value"]] == [
        (NEAR, 1, None),
        (FAR, 100, 50_000_000),
    ]


def _remembered(now: float) -> dict[str, Health]:
    near, far, authority = Health(attempts=40, seen=now), Health(attempts=12, seen=now), Health(attempts=9, seen=now)
    near.first_bytes.extend((0.01, 0.02, 0.04))
    near.speeds.extend((45e6, 52.5e6, 60e6))
    far.first_bytes.append(0.3)
    far.speeds.append(8e6)
    far.failures.update({Cause.STALLED: 2, Cause.RATE_LIMITED: 1})
    far.last_limited, far.barred_until = now - 330, now + 600
    authority.first_bytes.append(0.1)
    authority.speeds.append(25e6)
    authority.failures[Cause.RATE_LIMITED] = 1
    authority.last_limited = now - 3 * 3600 - 60
    return {NEAR: near, FAR: far, AUTHORITY: authority}


def test_the_table_of_mirrors_is_printed_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    Standing(tmp_path / "mirrors.json").save(_remembered(time.time()))
    assert main(["mirrors", "--mirror", NEAR, "--mirror", FAR]) == 0
    assert capsys.readouterr().out.partition("\n\n")[0].splitlines() == shown(MIRRORS, "mirrors").splitlines()


def test_a_check_prints_what_is_shown(world: World) -> None:
    for hub in world.hubs.values():
        hub.add_repo("org/name", {"main": {"config.json": b"{}", "model.safetensors": bytes(20_000_000)}})
    world.hubs[FAR].faults.append(Poison())
    out = world.shell(
        f"ci-modelcache mirrors check org/name --mirror {NEAR} --mirror {FAR} || test $? = 13",
    )
    assert _no_digests(out) == _no_digests(shown(MIRRORS, "check"))


def _no_digests(text: str) -> list[str]:
    return shape(re.sub(r"\b[0-9a-f]{12,64}\b", "HEX", text))


def test_the_python_program_of_the_guide_runs(world: World) -> None:
    (program,) = blocks(MIRRORS, "python")
    world.hubs[AUTHORITY].faults.append(Status(status=503))
    printed = world.run([sys.executable, "-W", "error", "-c", program])
    result, _, sources = printed.partition(" ")
    assert result == "miss"
    assert sources.strip() == str({NEAR: sum(map(len, FILES.values()))})
    assert (world.folder / "model" / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_what_failures_weigh_is_as_the_guide_says() -> None:
    (sentence,) = re.findall(r"^Failures weigh: (.*?)\. Every$", MIRRORS, re.MULTILINE | re.DOTALL)
    weights = [float(each) for each in re.findall(r"(\d+(?:\.\d+)?)(?:,|$)", sentence)]
    assert weights == sorted(set(_BLAME.values()))
    assert f"At {_too_much():g} the source is **barred** for 30 seconds" in MIRRORS


def _too_much() -> float:
    """The blame at which a source is barred, found by trying."""
    health, blame = Health(), 0.0
    while not health.failed(Cause.STALLED, now=0.0):
        blame = health.blame
    assert health.barred_until == 30  # seconds, as the guide says
    return blame + 1


def test_the_words_of_decisions_are_those_of_the_code() -> None:
    (paragraph,) = re.findall(r"^`-v` shows each decision(.*?)\n\n", MIRRORS, re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`([^`]+)`", paragraph)
    assert len(quoted) == 3  # as there are now
    for words in quoted:
        text = words.replace("...", "…")
        assert any(message.could_be(text) for message in messages()), words


def test_the_files_of_the_state_folder_are_made_by_the_code() -> None:
    table = MIRRORS.partition("## What is remembered")[2].partition("\n## ")[0]
    names = [row[0].strip("`").rstrip("/") for row in rows(table)]
    texts = {message.text for message in messages()}
    assert names
    assert set(names) <= texts


# --- tokens.md


@pytest.fixture
def means(tmp_path: Path) -> Iterator[Means]:
    with HttpSession() as session:
        environ = {"ACTIONS_ID_TOKEN_REQUEST_URL": "https://ci.example", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "secret"}
        yield Means(session, lambda: open_vault(tmp_path / "tokens"), tmp_path / "locks", environ=environ)


def test_every_provider_of_the_guide_is_one(means: Means) -> None:
    providers = [row[0].strip("`") for row in rows(TOKENS) if re.match(r"`(\w+:|keep)", row[0])]
    assert len(providers) == 7  # as there are now
    for text in providers:
        filled = text.replace("URL", "https://sts.example/token").replace("PROVIDER", "oidc:github")
        assert provider_named(filled.replace("PROGRAM", "echo"), host="hub.internal", means=means).name


def test_the_options_of_an_exchange_are_those_of_the_guide(means: Means) -> None:
    table = TOKENS.partition("An exchange takes these options")[2].partition("\n## ")[0]
    names = [name for row in rows(table) for name in re.findall(r"`([a-z_]+)`", row[0])]
    assert sorted(names) == sorted(_OPTIONS)
    grants = next(row[1] for row in rows(table) if row[0] == "`grant`")
    assert [name for name in re.findall(r"`([a-z-]+)`", grants) if name in list(Grant)] == list(Grant)
    with pytest.raises(ConfigError):
        provider_named("exchange:https://sts.example?subject=keep&grant=other", host="hub.internal", means=means)


def test_the_variable_of_the_guide_names_providers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"`CI_MODELCACHE_TOKENS` names providers: `([^`]+)`", TOKENS)
    monkeypatch.setenv("CI_MODELCACHE_TOKENS", example)
    monkeypatch.setenv("CI_MODELCACHE_STATE", str(tmp_path))
    hosts = [f"--mirror=https://{each.partition('=')[0]}" for each in example.split()]
    assert main(["auth", "status", "--json", *hosts]) == 0
    told = {each["host"]: each["provider"] for each in json.loads(capsys.readouterr().out)["hosts"]}
    assert told == dict(each.split("=", 1) for each in example.split())
