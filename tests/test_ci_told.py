"""What GitHub and GitLab are told of a command: by real runs, and read the way the runners read it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.ci.channel import Level, Note, Place
from ci_modelcache.ci.github import GitHub
from ci_modelcache.ci.gitlab import GitLab
from ci_modelcache.ci.inert import inert, inert_json
from ci_modelcache.ci.job import job_of
from ci_modelcache.ci.markdown import summary
from ci_modelcache.ci.outcome import OUTPUTS, Failure, ModelOutcome, Outcome, outputs_of
from ci_modelcache.cli.main import main
from ci_modelcache.demo.hub import LoopbackHub
from ci_modelcache.model.hidden import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 40,
    "modeling_x.py": b"print()",
    "old.bin": b"\x80",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add_repo("org/name", {"main": FILES})
        hub.add_repo("org/other", {"main": {"config.json": b"{}"}})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def commit(hub: LoopbackHub) -> str:
    """The commit of org/name."""
    with urllib.request.urlopen(f"{hub.url}/api/models/org/name/revision/main") as answer:
        return str(json.load(answer)["sha"])


class Step:
    """A step of a GitHub job in a checkout of its own, and what it left."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, line: str) -> int:
        for name in ("output", "env", "summary"):
            (self.folder / name).unlink(missing_ok=True)
        self._capsys.readouterr()
        code = main(shlex.split(line))
        self.out, self.err = self._capsys.readouterr()
        return code

    def values(self, name: str) -> dict[str, str]:
        return values_of((self.folder / name).read_text()) if (self.folder / name).exists() else {}

    @property
    def outputs(self) -> dict[str, str]:
        return self.values("output")

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text()

    @property
    def commands(self) -> list[str]:
        return commands_in(self.err)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Step:
    """A step of a push to main."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": "push",
        "GITHUB_WORKSPACE": str(work),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_ENV": str(tmp_path / "env"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }.items():
        monkeypatch.setenv(name, value)
    return Step(tmp_path, capsys)


def values_of(text: str) -> dict[str, str]:
    """The values in one of the runner's files, read by the rules of its FileCommandManager."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if not line:
            continue
        name, mark, delimiter = line.partition("<<")
        assert mark, f"not a value: {line!r}"
        value: list[str] = []
        for each in lines:
            if each == delimiter:
                break
            value.append(each)
        else:
            pytest.fail(f"no end of {name}")
        found[name] = "\n".join(value)
    return found


def commands_in(log: str) -> list[str]:
    """The workflow commands that the runner would carry out, by the rules of its ActionCommandManager."""
    found: list[str] = []
    stopped = ""
    for line in log.split("\n"):
        command = re.match(r"\s*::([\w-]+)(?: [^:]*(?:%3A[^:]*)*)?::(.*)", line)
        if stopped:
            stopped = "" if line.strip() == f"::{stopped}::" else stopped
        elif command and command[1] == "stop-commands":
            stopped = command[2]
        elif command or "##[" in line:
            found.append(line.strip())
    assert not stopped, "what follows in the same step could give no command"
    return found


def test_a_first_run_is_fetched_and_the_second_is_a_hit(step: Step, hub: LoopbackHub) -> None:
    assert step.run("restore org/name") == 0
    assert set(step.outputs) == set(OUTPUTS)
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("false", "fetched")
    first = step.outputs
    assert step.run("restore org/name --to copy") == 0
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("true", "hit")
    assert step.run("restore org/name --to copy") == 0
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("true", "local")
    assert step.outputs["path"] == step.out.strip()
    assert json.loads(step.outputs["paths"]) == {"org/name@main": step.outputs["path"]}
    assert step.outputs["revision"] == first["revision"] == commit(hub)
    assert step.outputs["digest"] == first["digest"]
    assert int(first["bytes-downloaded"]) == sum(map(len, FILES.values()))
    assert step.outputs["bytes-downloaded"] == "0"
    assert float(step.outputs["seconds"]) >= 0


def test_a_damaged_blob_makes_a_hit_a_partial_one(step: Step, hub: LoopbackHub) -> None:
    assert step.run("fetch org/name --store store") == 0
    for blob in (step.folder / "work" / "store").glob("blobs/sha256/*/*/*"):
        if blob.stat().st_size > 1000:
            blob.chmod(0o644)
            blob.write_bytes(b"x" * blob.stat().st_size)
    assert step.run("restore org/name --store store --to out") == 0
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("false", "partial")
    assert any(line.startswith("::warning title=ci-modelcache::") for line in step.commands)
    assert "- warning: " in step.summary
    assert hub.url in step.summary


@pytest.mark.parametrize(
    ("line", "code", "result"),
    [
        ("restore org/name --fail-on-miss", 10, "miss"),
        ("restore org/name@none", 10, "miss"),
        ("restore org/name --endpoint http://127.0.0.1:9 --deadline 1s", 15, "timeout"),
        ("restore org/name --mode off --offline", 10, "miss"),
        ("restore org/name@^1", 2, "error"),
        ("restore org/name --deadline soon", 2, "error"),
    ],
)
def test_a_failure_has_outputs_an_annotation_and_a_summary(
    line: str, code: int, result: str, step: Step, hub: LoopbackHub
) -> None:
    del hub
    assert step.run(line) == code
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("false", result)
    (error,) = [each for each in step.commands if each.startswith("::error ")]
    assert "hint: " in error or "--deadline soon" in line
    assert step.summary.startswith(f"### Models: {result}\n")
    assert step.values("env") == {}


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (10, "miss"),
        (11, "unavailable"),
        (12, "denied"),
        (13, "corrupt"),
        (14, "no-space"),
        (15, "timeout"),
        (1, "error"),
        (2, "error"),
    ],
)
def test_every_exit_code_has_its_word(code: int, word: str) -> None:
    good = ModelOutcome("org/name@main", "hit")
    values = outputs_of(Outcome((good,), 1.0, Failure(code, "why")))
    assert (values["result"], values["cache-hit"]) == (word, "false")


def test_the_worst_of_several_models_is_the_result() -> None:
    models = [ModelOutcome("a/a", each) for each in ("local", "fetched", "hit")]
    values = outputs_of(Outcome(tuple(models), 1.0))
    assert (values["result"], values["cache-hit"]) == ("fetched", "false")
    assert outputs_of(Outcome((), 0.0))["cache-hit"] == "false"


def test_later_steps_are_told_to_ask_no_hub_only_when_all_is_proven_in_the_hub_cache(
    step: Step, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub
    assert step.run("restore org/name") == 0
    assert step.values("env") == {}
    assert step.run("restore org/other org/name@none --offline-env auto") == 10
    assert step.values("env") == {}
    assert step.run("restore org/name --lookup-only --offline-env auto") == 0
    assert step.values("env") == {}
    assert step.run("restore org/name --to flat --offline-env auto") == 0
    assert step.values("env") == {}
    monkeypatch.setenv("HF_HOME", str(step.folder / "hf"))
    assert step.run("restore org/name --offline-env auto") == 0
    assert step.values("env") == {
        "HF_HOME": str(step.folder / "hf"),
        "HF_HUB_CACHE": str(step.folder / "hf" / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    monkeypatch.setenv("HF_HUB_CACHE", str(step.folder / "elsewhere"))
    assert step.run("restore org/name --offline-env auto") == 0
    assert "HF_HOME" not in step.values("env")


def test_what_is_looked_up_is_told_and_left_alone(step: Step, hub: LoopbackHub) -> None:
    assert step.run("restore org/name --lookup-only") == 0
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("false", "miss")
    assert step.out == f"miss org/name@{commit(hub)}\n"
    assert step.run("fetch org/name") == 0
    assert step.run("restore org/name --lookup-only") == 0
    assert (step.outputs["cache-hit"], step.outputs["result"]) == ("true", "hit")
    assert step.outputs["revision"] == commit(hub)
    assert step.outputs["path"] == ""
    assert step.run("restore org/other --lookup-only --fail-on-miss") == 10
    assert step.outputs["result"] == "miss"


def test_a_snapshot_that_lost_a_file_is_a_miss_when_it_is_looked_up(step: Step, hub: LoopbackHub) -> None:
    del hub
    assert step.run("fetch org/name --store store") == 0
    largest = max((step.folder / "work/store").glob("blobs/sha256/*/*/*"), key=lambda blob: blob.stat().st_size)
    largest.unlink()
    assert step.run("--json restore org/name --store store --lookup-only") == 0
    (report,) = json.loads(step.out)["snapshots"]
    assert (report["result"], report["missing"]) == ("miss", ["model.safetensors"])


def test_the_summary_is_a_table_and_names_files_that_run_code(step: Step, hub: LoopbackHub) -> None:
    assert step.run("restore org/name org/other") == 0
    head, _, first, second = [line for line in step.summary.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        *("model", "revision", "result", "source", "files", "size", "seconds", "MB/s", "hit ratio", "verified against")
    ]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[0] == "org/name\\@main"
    assert cells[1] == commit(hub)[:12]
    assert cells[2] == "fetched"
    assert cells[4] == "4"
    assert cells[8:] == ["0 %", "the Hub"]
    assert "org/other" in second
    assert "**may run code when loaded** (org/name\\@main): modeling\\_x.py, old.bin" in step.summary


def test_a_pull_request_leaves_the_store_as_it_is(
    step: Step, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub
    monkeypatch.setenv("GITHUB_EVENT_NAME", "pull_request")
    assert step.run("restore org/name --store store") == 0
    assert not any((step.folder / "work/store").rglob("*"))
    (notice,) = [each for each in step.commands if each.startswith("::notice ")]
    assert "org/name@main was fetched and is not saved: mode auto: a job of the event pull_request only reads" in notice
    assert step.run("fetch org/name --store store") == 2
    assert "mode auto: a job of the event pull_request only reads; give --mode read-write" in step.err
    assert step.run("restore org/name --store store --mode read-write --to there") == 0
    assert any((step.folder / "work/store").rglob("*"))


@pytest.mark.parametrize("event", ["push", "schedule", "workflow_dispatch", "repository_dispatch", "release"])
def test_events_that_only_insiders_can_cause_may_write(event: str) -> None:
    assert job_of({"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event}, in_build=False).may_write


@pytest.mark.parametrize(
    "event",
    [
        "pull_request",
        "pull_request_target",
        "issue_comment",
        "workflow_run",
        "issues",
        "merge_group",
        "fork",
        "",
        "new",
    ],
)
def test_all_other_events_only_read(event: str) -> None:
    assert not job_of({"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": event}, in_build=False).may_write


@pytest.mark.parametrize("mode", ["read", "none"])
def test_a_workflow_that_forbids_writing_caches_forbids_it_here(mode: str) -> None:
    said = {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "ACTIONS_CACHE_MODE": mode}
    assert not job_of(said, in_build=False).may_write


@pytest.mark.parametrize(
    ("said", "may_write"),
    [
        ({"CI_COMMIT_REF_PROTECTED": "true", "CI_PIPELINE_SOURCE": "push"}, True),
        ({"CI_COMMIT_REF_PROTECTED": "true", "CI_PIPELINE_SOURCE": "schedule"}, True),
        ({"CI_COMMIT_REF_PROTECTED": "false", "CI_PIPELINE_SOURCE": "push"}, False),
        ({"CI_COMMIT_REF_PROTECTED": "true", "CI_PIPELINE_SOURCE": "merge_request_event"}, False),
        ({"CI_COMMIT_REF_PROTECTED": "true", "CI_PIPELINE_SOURCE": "push", "CI_MERGE_REQUEST_IID": "7"}, False),
        ({"CI_COMMIT_REF_PROTECTED": "true", "CI_PIPELINE_SOURCE": "external_pull_request_event"}, False),
        ({}, False),
    ],
)
def test_on_gitlab_protected_refs_write(said: dict[str, str], may_write: bool) -> None:  # noqa: FBT001  # a column of the table
    assert job_of({"GITLAB_CI": "true", **said}, in_build=False).may_write is may_write


def test_whoever_works_at_a_machine_of_his_own_may_write() -> None:
    assert job_of({}, in_build=False).may_write


@pytest.mark.parametrize("said", [{}, {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push"}])
def test_the_build_of_an_image_only_reads_and_lacks_credentials_by_mistake_alone(said: dict[str, str]) -> None:
    """It may be caused by anybody; but whoever wrote the Dockerfile named a store, and meant it to be read."""
    job = job_of(said, in_build=True)
    assert (job.may_write, job.outsiders) == (False, False)


# --- where a message is about


@pytest.fixture
def project(step: Step, hub: LoopbackHub) -> Path:
    """A checkout with a lock of two models."""
    del hub
    work = step.folder / "work"
    (work / "modelcache.toml").write_text('[[models]]\nrepo = "org/name"\n\n[[models]]\nrepo = "org/other"\n')
    assert step.run("lock") == 0
    return work


def test_without_a_name_the_lock_says_what_is_restored(step: Step, project: Path, hub: LoopbackHub) -> None:
    hub.add_repo("org/other", {"main": {"config.json": b"moved"}})
    assert step.run("restore") == 0
    assert (project / "modelcache.lock").exists()
    assert "modelcache.lock" in step.summary
    assert len(step.out.splitlines()) == 2
    assert step.run("restore --no-locked --revision-ttl 0") == 0
    assert "modelcache.lock" not in step.summary


def test_an_error_of_a_locked_model_stands_at_its_line_of_the_lock(step: Step, project: Path) -> None:
    assert step.run("restore --store empty --fail-on-miss") in {2, 10}
    (project / "empty").mkdir(exist_ok=True)
    assert step.run("restore --store empty --fail-on-miss") == 10
    lines = (project / "modelcache.lock").read_text().splitlines()
    at = lines.index('repo = "org/name"') + 1
    assert any(
        each.startswith(f"::error title=ci-modelcache,file=modelcache.lock,line={at}::") for each in step.commands
    )


@pytest.mark.parametrize("command", ["restore", "lock --check"])
def test_a_stale_lock_is_told_at_the_lock(command: str, step: Step, project: Path) -> None:
    (project / "modelcache.toml").write_text('[[models]]\nrepo = "org/name"\nrevision = "v2"\n')
    assert step.run(command) == 2
    (error,) = [each for each in step.commands if each.startswith("::error ")]
    assert error.startswith("::error title=ci-modelcache,file=modelcache.lock,line=1::modelcache.lock does not match")


def test_an_error_of_a_model_of_the_project_file_stands_at_its_line_there(step: Step, hub: LoopbackHub) -> None:
    del hub
    (step.folder / "work/modelcache.toml").write_text(
        '[[models]]\nrepo = "org/name"\n\n[[models]]\nrepo = "org/other"\nrevision = "none"\n'
    )
    assert step.run("restore") == 10
    assert any("file=modelcache.toml,line=5::" in each for each in step.commands)


def test_of_several_models_that_fail_the_first_is_the_one_that_the_error_stands_at(
    step: Step, hub: LoopbackHub
) -> None:
    del hub
    models = "".join(f'[[models]]\nrepo = "org/{name}"\nrevision = "none"\n' for name in ("name", "other"))
    (step.folder / "work/modelcache.toml").write_text(models)
    assert step.run("warm") == 10
    (error,) = [each for each in step.commands if each.startswith("::error ")]
    assert "file=modelcache.toml,line=2::" in error
    assert "and org/other@none" in error


def test_variables_stand_for_options(step: Step, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub
    monkeypatch.setenv("CI_MODELCACHE_MODELS", "org/name@main\norg/other")
    monkeypatch.setenv("CI_MODELCACHE_TO", "models")
    monkeypatch.setenv("CI_MODELCACHE_INCLUDE", "*.json\n*.py")
    monkeypatch.setenv("CI_MODELCACHE_EXCLUDE", "*.bin")
    monkeypatch.setenv("CI_MODELCACHE_FAIL_ON_MISS", "false")
    monkeypatch.setenv("CI_MODELCACHE_LOOKUP_ONLY", "")
    assert step.run("restore") == 0
    assert sorted(path.name for path in (step.folder / "work/models/org/name").iterdir()) == [
        "config.json",
        "modeling_x.py",
    ]
    monkeypatch.setenv("CI_MODELCACHE_FAIL_ON_MISS", "true")
    assert step.run("restore org/name@none") == 10


# --- hostile text


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(
    [
        "a\n::add-mask::x",
        "##[set-output name=a]b",
        "%0A::error::x",
        "x<<y\nz\ny",
        "\r::warning::",
        "|`<script>",
        "\x1b[0K",
    ]
)


def github(tmp_path: Path, said: list[str]) -> GitHub:
    environ = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_ENV": str(tmp_path / "env")}
    return GitHub(environ, said.append)


@given(text=TEXTS)
def test_no_value_can_set_another_output(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("step")
    model = ModelOutcome("org/name@main", "hit", path=text, digest=text)
    github(folder, []).finish(Outcome((model,), 1.0, environment={"HF_HUB_CACHE": text}))
    read = values_of((folder / "output").read_bytes().decode())
    assert set(read) == set(OUTPUTS)
    assert (read["path"], read["digest"]) == (text, text)
    assert values_of((folder / "env").read_bytes().decode()) == {"HF_HUB_CACHE": text}


@given(text=TEXTS)
def test_no_note_is_two_commands(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    said: list[str] = []
    channel = github(tmp_path_factory.getbasetemp(), said)
    with channel.guarded():
        said.append(text)  # whatever else is written meanwhile
        channel.note(Note(Level.WARNING, text, text, Place(text, 3)))
        with channel.group(text):
            pass
    commands = commands_in("\n".join(said))
    assert [command.split(" ")[0].split("::")[1] for command in commands] == ["warning", "group", "endgroup"]


@given(text=TEXTS)
def test_an_error_cannot_be_a_command(text: str) -> None:
    assert commands_in(inert(text)) == []
    assert json.loads(inert_json(json.dumps(text))) == text
    assert "##[" not in inert_json(json.dumps(text))


@given(text=TEXTS)
def test_no_name_breaks_the_table(text: str) -> None:
    model = ModelOutcome(text, "hit", source=text, running=(text,), warnings=(text,), mirrors={text: 1}, commit=text)
    page = summary(Outcome((model,), 1.0, Failure(11, text, text)))
    rows = [line for line in page.split("\n") if line.startswith("|")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {11}
    assert not re.search(r"(?<!\\)<script", page)


@given(text=TEXTS)
def test_what_a_shell_reads_is_what_was_meant(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if "\0" in text:
        return  # no variable can hold it
    folder = tmp_path_factory.mktemp("project")
    channel = GitLab({"CI_PROJECT_DIR": str(folder)}, lambda _: None, clock=lambda: 0.0, pages="https://hub")
    channel.finish(Outcome((ModelOutcome("org/name@main", "hit", path=text),), 1.0, environment={"HF_HUB_CACHE": text}))
    script = (folder / ".modelcache/environment.sh").read_bytes()
    assert script.startswith(b"export HF_HUB_CACHE=")
    assert shlex.split(script.decode().removeprefix("export HF_HUB_CACHE=")) == [text]
    for line in (folder / ".modelcache/outputs.env").read_bytes().decode().splitlines():
        assert re.fullmatch(r"MODELCACHE_[A-Z_]+=[^\n]*", line)


def test_a_secret_that_becomes_known_is_masked_and_one_that_was_given_is_not(tmp_path: Path) -> None:
    said: list[str] = []
    secrets = Secrets(["given"])
    secrets.listen(github(tmp_path, said).hide)
    secrets.add("minted-%-token")
    secrets.add("minted-%-token")
    secrets.add("given")
    assert said == ["::add-mask::minted-%25-token"]


# --- GitLab


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Any]:
    """Run a command line in a job of a protected branch; returns its exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "GITLAB_CI": "true",
        "CI_PROJECT_DIR": str(tmp_path),
        "CI_COMMIT_REF_PROTECTED": "true",
        "CI_PIPELINE_SOURCE": "push",
    }.items():
        monkeypatch.setenv(name, value)

    def run(line: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(shlex.split(line))
        return code, capsys.readouterr().err

    return run


def test_a_gitlab_job_gets_sections_outputs_variables_and_links(job: Any, hub: LoopbackHub, tmp_path: Path) -> None:
    code, log = job("restore org/name --offline-env auto")
    assert code == 0
    (start,) = re.findall(r"\x1b\[0Ksection_start:\d+:(\w+)\[collapsed=true\]\r\x1b\[0Krestore org/name@main\n", log)
    assert re.search(rf"\x1b\[0Ksection_end:\d+:{start}\r\x1b\[0K\n", log)
    folder = tmp_path / ".modelcache"
    report = dict(line.split("=", 1) for line in (folder / "outputs.env").read_text().splitlines())
    assert set(report) == {f"MODELCACHE_{name.upper().replace('-', '_')}" for name in OUTPUTS}
    assert (report["MODELCACHE_CACHE_HIT"], report["MODELCACHE_RESULT"]) == ("false", "fetched")
    script = f'. {folder}/environment.sh; printf \'%s|\' "$HF_HUB_CACHE" "$HF_HUB_OFFLINE"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("/.cache/huggingface/hub|1|")
    (link,) = json.loads((folder / "annotations.json").read_text())["models"]
    assert link["external_link"] == {
        "label": "org/name@main: fetched",
        "url": f"{hub.url}/org/name/tree/{commit(hub)}",
    }


def test_a_gitlab_job_that_fails_leaves_outputs_and_no_variables(job: Any, hub: LoopbackHub, tmp_path: Path) -> None:
    del hub
    assert job("restore org/name --offline-env auto")[0] == 0
    code, log = job("restore org/other org/name@none --offline-env auto")
    assert code == 10
    assert log.count("error: ") == 1
    assert "MODELCACHE_RESULT=miss\n" in (tmp_path / ".modelcache/outputs.env").read_text()
    assert (tmp_path / ".modelcache/environment.sh").read_text() == ""


def test_nobody_is_told_where_no_ci_system_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert main(["restore", "org/name"]) == 0
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["restore", "org/name", "--ci", "off"]) == 0
    assert not (tmp_path / "output").exists()
    assert commands_in(capsys.readouterr().err) == []
