from __future__ import annotations

import importlib
import logging
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import click
import pytest

from ci_modelcache import errors
from ci_modelcache.cli import docker
from ci_modelcache.cli.groups import command_in
from ci_modelcache.cli.main import COMMANDS, Commands, commands, main
from ci_modelcache.demo.hub import LoopbackHub
from tests.parts.command_line import Outcome, calling
from tests.parts.reference import NAMES, called, command_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 400, "sub/vocab.txt": b"a\nb\n"}
TOKEN = "hf_0123456789abcdefghij"
OPAQUE = "looks-like-any-other-word"
"""A token without a mark by which it could be known."""
RUN = [sys.executable, "-m", "ci_modelcache"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    return calling(capsys)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tokens={TOKEN: "somebody"}) as hub:
        hub.add_repo("org/name", {"main": FILES})
        hub.add_repo("org/other", {"main": {"config.json": b"{}"}})
        hub.add_repo("org/private", {"main": {"config.json": b"{}"}}, private=True, readers=["somebody"])
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


# --- help, version, completion


def test_help_lists_every_command_with_its_summary(run: Any) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    for name, summary in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", outcome.out, re.MULTILINE), name


@pytest.mark.parametrize(
    ("name", "summary"), [*COMMANDS.items(), *((f"docker {k}", v) for k, v in docker.COMMANDS.items())]
)
def test_the_table_says_what_the_command_says(name: str, summary: str) -> None:
    command = command_in(f"ci_modelcache.cli.{name.replace(' ', '_')}")
    assert command.name == name.rsplit(maxsplit=1)[-1]
    first, _, _ = str(command.help).strip().partition("\n")
    assert first == summary


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_every_command_are_in_its_help_and_can_be_parsed(name: str, run: Any) -> None:
    command = command_of(name)
    assert command.examples
    shown = run(f"{name} --help")
    assert shown.code == 0
    shown_commands = set()
    for comment, line in command.examples:
        assert f"  # {comment}\n  {line}\n" in shown.out
        written = re.search(r"ci-modelcache ([^|<>)]*)", line)
        assert written is not None
        found, arguments = called(shlex.split(written[1]))
        with command_of(found).make_context(found, list(arguments)):
            shown_commands.add(found)
    assert name in shown_commands


@pytest.mark.parametrize("line", ["docker", "docker inspekt x", "docker --nonsense"])
def test_a_group_without_a_command_of_it_is_a_usage_error(line: str, run: Any) -> None:
    outcome = run(line)
    assert (outcome.code, outcome.out) == (2, "")
    assert "docker" in outcome.err


def test_help_costs_no_import_that_it_does_not_need() -> None:
    heavy = {"attr", "boto3", "botocore", "cattrs", "logging", "requests", "rich", "rfc8785", "tenacity"}
    code = f"import sys; from ci_modelcache.cli.main import main; main(['--help']); print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "set()"


def test_the_version_is_shown(run: Any) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"ci-modelcache \d+\.\d+\.\d+\n", outcome.out)


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run([*RUN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ci-modelcache ")


def test_no_command_at_all_shows_the_help_on_stderr_and_fails(run: Any) -> None:
    outcome = run("")
    assert (outcome.code, outcome.out) == (2, "")
    assert "Commands:" in outcome.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(run: Any, shell: str) -> None:
    outcome = run(f"completion {shell}")
    assert outcome.code == 0
    assert f"_CI_MODELCACHE_COMPLETE={shell}_complete" in outcome.out


def test_bash_accepts_its_script(run: Any) -> None:
    script = run("completion bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "expected"), [("res", "restore"), ("restore --of", "--offline"), ("restore --mode r", "read-write")]
)
def test_the_shell_is_told_commands_options_and_values(
    words: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_CI_MODELCACHE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"ci-modelcache {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    with pytest.raises(SystemExit):
        main([])
    assert f"plain,{expected}" in capsys.readouterr().out.splitlines()


# --- usage errors


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("restor", "there is no command restor; did you mean restore?", "see ci-modelcache --help"),
        ("restore --lockd", "No such option", "see ci-modelcache restore --help"),
        ("path", "Missing argument 'REF'", "see ci-modelcache path --help"),
        ("restore --type modell a/b", "'modell' is not one of", "see ci-modelcache restore --help"),
        ("restore", "no model is named, and modelcache.toml names none either", "[[models]]"),
        ("restore --include x", "go with a model, and none is named", "modelcache.toml"),
        ("restore a/b/c", "not a repository name: 'a/b/c'", "org/name"),
        ("restore a/b@x --revision y", "two revisions", "once"),
        ("config --deadline soon", "flag --deadline: not a duration: 'soon'", "15m"),
        ("lock", "modelcache.toml names no models to lock", "[[models]]"),
        ("lock --check --upgrade", "--check changes nothing", "one of the two"),
        ("restore --locked", "modelcache.lock", "ci-modelcache lock"),
        ("restore a/b --to ''", "--to names no folder", "an unset variable"),
        ("save '' me/mine@v1", "DIR names no folder", "an unset variable"),
        ("save nowhere me/mine@v1", "not a directory: nowhere", ""),
        ("demo --model-dir .", "there is no model.safetensors in .", "--model-dir"),
        ("completion tcsh", "'tcsh' is not one of", "see ci-modelcache completion --help"),
    ],
)
def test_a_mistake_on_the_command_line_exits_with_2_and_says_what_to_do(
    run: Any, line: str, message: str, hint: str
) -> None:
    outcome = run(line)
    assert (outcome.code, outcome.out) == (2, ""), outcome
    first, *rest = outcome.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert not hint or (rest[-1].startswith("  hint: ") and hint in rest[-1]), outcome


@pytest.mark.parametrize("line", ["--json restor", "restore --json --lockd", "restore a/b/c --json"])
def test_with_json_a_mistake_is_one_object_on_stdout_too(run: Any, line: str) -> None:
    outcome = run(line)
    assert outcome.code == 2
    (error,) = outcome.json.values()
    assert set(error) == {"type", "message", "hint", "exit_code"}
    assert error["exit_code"] == 2


def test_json_behind_two_dashes_is_an_argument_like_any_other(run: Any) -> None:
    assert run("path -- --json").out == ""


# --- errors of a command


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make the command ``ls`` raise something."""

    def fail_with(error: BaseException) -> None:
        @click.command("ls")
        @click.option("--json", is_flag=True)
        def ls(**_options: object) -> NoReturn:
            raise error

        monkeypatch.setattr(Commands, "get_command", lambda *_: ls)

    return fail_with


KNOWN = [
    (errors.ConfigError("m"), 2),
    (errors.SnapshotNotFound("m"), 10),
    (errors.RateLimited("m"), 11),
    (errors.AccessDenied("m"), 12),
    (errors.DigestMismatch("f", expected="a", actual="b"), 13),
    (errors.NoSpace("m"), 14),
    (errors.DeadlineExceeded("m"), 15),
]


@pytest.mark.parametrize(("error", "code"), KNOWN, ids=lambda value: type(value).__name__)
def test_the_exit_code_is_that_of_the_class(run: Any, failing: Any, error: errors.ModelCacheError, code: int) -> None:
    failing(error)
    outcome = run("ls")
    assert (outcome.code, outcome.out, outcome.err) == (code, "", f"error: {error.message}\n")


def test_message_notes_and_hint_stand_below_each_other(run: Any, failing: Any) -> None:
    error = errors.Unavailable("the store is silent", hint="look at the network")
    error.add_note("gave up after 6 attempts")
    failing(error)
    assert run("ls").err == ("error: the store is silent\n  gave up after 6 attempts\n  hint: look at the network\n")


def test_with_json_a_failure_is_one_object_on_stdout(run: Any, failing: Any) -> None:
    failing(errors.SnapshotNotFound("it is not there", hint="fetch it"))
    assert run("ls --json").json == {
        "error": {"type": "SnapshotNotFound", "message": "it is not there", "hint": "fetch it", "exit_code": 10}
    }


SECRETS = 'GET https://u:p4ssw0rd@host/x?X-Amz-Signature=abcdef012345 with "Authorization: Bearer hf_abcdefghijklmnop"'


@pytest.mark.parametrize("error", [errors.Unavailable(SECRETS, hint=SECRETS), ValueError(SECRETS)])
def test_no_secret_comes_out_of_an_error_and_json_stays_json(run: Any, failing: Any, error: Exception) -> None:
    failing(error)
    outcome = run("ls --json")
    assert outcome.json["error"]["type"] == type(error).__name__
    for secret in ("p4ssw0rd", "abcdef012345", "hf_abcdefghijklmnop"):
        assert secret not in outcome.out + outcome.err


def test_anything_else_is_a_bug_with_its_traceback(run: Any, failing: Any) -> None:
    failing(ZeroDivisionError("by zero"))
    outcome = run("ls --json")
    assert outcome.code == outcome.json["error"]["exit_code"] == 1
    assert "Traceback (most recent call last)" in outcome.err
    assert "error: this is a bug in ci-modelcache: ZeroDivisionError: by zero" in outcome.err
    assert "please report it" in outcome.err


def test_a_path_that_may_not_be_used_is_no_bug(run: Any, failing: Any) -> None:
    failing(PermissionError(13, "Permission denied", "/models"))
    outcome = run("ls")
    assert outcome.code == 1
    assert outcome.err.splitlines()[0] == "error: Permission denied: /models"
    assert "Traceback" not in outcome.err


def test_a_broken_pipe_that_is_not_stdout_is_not_kept_quiet(run: Any, failing: Any) -> None:
    failing(BrokenPipeError(32, "Broken pipe"))
    outcome = run("ls")
    assert outcome.code == 1
    assert "BrokenPipeError" in outcome.err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), errors.Interrupted("x")])
def test_an_interrupted_run_says_that_it_can_be_continued(run: Any, failing: Any, error: BaseException) -> None:
    failing(error)
    outcome = run("ls --json")
    assert outcome.code == 130
    assert outcome.json["error"]["type"] == "Interrupted"
    if not isinstance(error, errors.Interrupted):
        assert "error: interrupted; what was received is kept, run again to continue\n" in outcome.err


def test_a_reader_who_goes_away_is_no_failure() -> None:
    with subprocess.Popen([*RUN, "config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize("json_", [[], ["--json"]])
def test_a_result_that_finds_no_room_on_stdout_is_no_space_and_one_line(json_: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        ran = subprocess.run([*RUN, "config", *json_], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 14
    first, *hint = ran.stderr.splitlines()
    assert first == "error: the work is done, and its result cannot be written to stdout: No space left on device"
    assert len(hint) == 1


def test_a_failure_that_finds_no_room_on_stdout_keeps_its_exit_code() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        command = [*RUN, "info", "me/none", "--json"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 10
    assert "Traceback" not in ran.stderr
    assert "cannot be written to stdout" in ran.stderr.splitlines()[-1]


def test_a_result_that_nobody_wants_is_no_failure() -> None:
    ran = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *RUN, "config"], stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_handler_of_sigterm_is_given_back() -> None:
    def ours(number: int, frame: object) -> None:
        del number, frame

    before = signal.signal(signal.SIGTERM, ours)
    try:
        main(["--version"])
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_it_can_be_called_from_any_thread(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_ends_with_130_and_the_next_one_goes_on_from_there(
    hub: LoopbackHub, tmp_path: Path, number: signal.Signals
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stall(request: Any, respond: Any) -> Any:
        if "vocab" in request.target:
            reached.set()
            go_on.wait(60)
        return respond(request)

    hub.faults.append(stall)
    folder = tmp_path / "to"
    command = [*RUN, "restore", "org/name", "--to", str(folder), "--mode", "off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert reached.wait(60)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    go_on.set()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted; what was received is kept, run again to continue"
    for path, content in FILES.items():
        assert not (folder / path).exists() or (folder / path).read_bytes() == content
    assert not (folder / "sub" / "vocab.txt").exists()
    subprocess.run(command, check=True, capture_output=True)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES


# --- settings, logging


def test_config_shows_every_setting_with_its_origin_and_no_secret(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    outcome = run("config --store s3://bucket/x --deadline 15m")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in outcome.out.splitlines()}
    assert re.fullmatch(r"s3://bucket/x +flag --store", rows["store"])
    assert re.fullmatch(r"900 s +flag --deadline", rows["deadline"])
    assert re.fullmatch(r"\*\*\* +variable HF_TOKEN", rows["token"])
    assert re.fullmatch(r"- +default", rows["region"])
    assert TOKEN not in outcome.out + outcome.err


def test_config_as_json_has_values_of_their_own_types(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_MODELCACHE_OFFLINE", "yes")
    settings = run("config --json --workers 3 --deadline 1m").json["settings"]
    assert settings["offline"] == {"value": True, "origin": "variable CI_MODELCACHE_OFFLINE"}
    assert settings["workers"] == {"value": 3, "origin": "flag --workers"}
    assert settings["deadline"]["value"] == 60
    assert settings["token"]["value"] is None


def test_warnings_look_like_a_ci_log(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "work" / "modelcache.toml").write_text('endpoint = "https://elsewhere.example"\n')
    outcome = run("config")
    assert re.match(r"\d\d:\d\d:\d\d warning: the token of variable HF_TOKEN is not used: ", outcome.err)
    assert run("config -q").err == run("-q config").err == ""


@pytest.fixture
def talking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``config`` log at every level, and a library too."""
    config = importlib.import_module("ci_modelcache.cli.config")
    quiet = config.settings

    def settings(config: Any) -> Any:
        for name in ("ci_modelcache.somewhere", "botocore"):
            for level in ("debug", "info", "warning", "error"):
                getattr(logging.getLogger(name), level)("%s from %s, %s %s", level, name, TOKEN, OPAQUE)
        return quiet(config)

    monkeypatch.setattr(config, "settings", settings)


@pytest.mark.parametrize(
    ("line", "ours", "theirs"),
    [
        ("config -q", ["error"], ["error"]),
        ("config", ["warning", "error"], ["warning", "error"]),
        ("config -v", ["info", "warning", "error"], ["warning", "error"]),
        ("-v config", ["info", "warning", "error"], ["warning", "error"]),
        ("config -vv", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("-v config -v", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("config -vvvv", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("config -vq", ["warning", "error"], ["warning", "error"]),
    ],
)
@pytest.mark.usefixtures("talking")
def test_each_v_says_more_but_libraries_are_never_let_loose(
    run: Any, line: str, ours: list[str], theirs: list[str]
) -> None:
    err = run(line).err
    assert re.findall(r"(\w+) from ci_modelcache", err) == ours
    assert re.findall(r"(\w+) from botocore", err) == theirs


@pytest.mark.usefixtures("talking")
def test_the_token_in_use_is_never_logged_however_it_got_into_a_message(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"error from botocore, *** {OPAQUE}\n" in run("config -vv").err
    monkeypatch.setenv("CI_MODELCACHE_TOKEN", OPAQUE)
    err = run("config -vv").err
    assert "error from botocore, *** ***\n" in err
    assert TOKEN not in err
    assert OPAQUE not in err


def test_logging_is_as_before_after_a_command(run: Any) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("ci_modelcache").level)
    run("config -vv")
    assert (list(root.handlers), root.level, logging.getLogger("ci_modelcache").level) == before


# --- restore and its kin, against a real Hub on loopback


def test_a_miss_is_fetched_then_the_store_has_it_then_nothing_is_left_to_do(run: Any, hub: LoopbackHub) -> None:
    first = run("restore org/name --json").json["snapshots"][0]
    assert (first["result"], first["saved"]) == ("miss", True)
    hub.forget()
    (second,) = run("restore org/name --offline --to there --json").json["snapshots"]
    assert (second["result"], second["digest"]) == ("hit", first["digest"])
    (third,) = run("restore org/name --offline --to there --json").json["snapshots"]
    assert (third["result"], third["files_restored"]) == ("local", 0)
    assert hub.requests() == []


@pytest.mark.usefixtures("hub")
def test_the_path_and_nothing_else_is_printed(run: Any, tmp_path: Path) -> None:
    outcome = run("restore org/name")
    path = outcome.out.removesuffix("\n")
    assert (tmp_path / path / "config.json").read_bytes() == FILES["config.json"]
    assert run("path org/name").out == outcome.out
    assert "org/name@main: fetched from http://127.0.0.1" in outcome.err
    quiet = run("restore org/name -q")
    assert (quiet.out, quiet.err) == (outcome.out, "")


@pytest.mark.usefixtures("hub")
def test_one_model_goes_into_the_folder_itself_and_several_below_it(run: Any, tmp_path: Path) -> None:
    one = run("restore org/name --to one")
    assert one.out == f"{tmp_path}/work/one\n"
    assert (tmp_path / "work/one/sub/vocab.txt").read_bytes() == FILES["sub/vocab.txt"]
    two = run("restore org/name org/other --to two")
    assert two.out.splitlines() == [f"{tmp_path}/work/two/org/name", f"{tmp_path}/work/two/org/other"]
    assert (tmp_path / "work/two/org/other/config.json").exists()


@pytest.mark.usefixtures("hub")
def test_the_only_model_of_a_project_goes_where_it_will_stay_when_a_second_one_comes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work/modelcache.toml").write_text('[[models]]\nrepo = "org/other"\n')
    assert run("restore --to models").out == f"{tmp_path}/work/models/org/other\n"


def test_the_store_is_believed_about_a_branch_for_as_long_as_was_said(run: Any, hub: LoopbackHub) -> None:
    run("restore org/name")
    hub.forget()
    run("restore org/name --to a")
    assert hub.requests() == []
    run("restore org/name --to b --revision-ttl 0")
    assert len(hub.requests()) == 1


@pytest.mark.usefixtures("hub")
def test_two_models_are_not_put_into_one_folder(run: Any) -> None:
    outcome = run("restore org/name@main org/name@v2 --to one")
    assert outcome.code == 2
    assert "would go into the same folder" in outcome.err


@pytest.mark.usefixtures("hub")
def test_a_project_restores_what_it_names_each_with_its_patterns(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work/modelcache.toml").write_text(
        '[[models]]\nrepo = "org/name"\ninclude = ["*.json"]\n[[models]]\nrepo = "org/other"\n'
    )
    outcome = run("restore --to models")
    assert outcome.code == 0, outcome
    assert [path.name for path in (tmp_path / "work/models/org/name").iterdir()] == ["config.json"]
    assert (tmp_path / "work/models/org/other/config.json").exists()


@pytest.mark.usefixtures("hub")
def test_patterns_choose_files_and_extra_ones_are_reported_then_pruned(run: Any, tmp_path: Path) -> None:
    run("restore org/name --to d")
    outcome = run("restore org/name --to d --include '*.json' --exclude 'sub/*'")
    assert "2 files here that the model does not have" in outcome.err
    outcome = run("restore org/name --to d --include '*.json' --prune-extra")
    assert "removed 2 files" in outcome.err
    assert [path.name for path in (tmp_path / "work/d").iterdir()] == ["config.json"]


@pytest.mark.usefixtures("hub")
def test_times_are_normalized_when_asked(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    run("restore org/name --to d --normalize")
    assert (tmp_path / "work/d/config.json").stat().st_mtime == 1700000000


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("flags", ["--offline", "--fail-on-miss", "--offline --mode off"])
def test_a_miss_that_may_not_be_fetched_exits_with_10(run: Any, flags: str) -> None:
    outcome = run(f"restore org/name {flags}")
    assert (outcome.code, outcome.out) == (10, ""), outcome
    assert "hint: " in outcome.err or "--fail-on-miss" in flags


def test_mode_read_restores_and_leaves_the_store_alone(run: Any, hub: LoopbackHub) -> None:
    assert run("restore org/name --mode read --json").json["snapshots"][0]["saved"] is False
    assert run("ls --json").json["snapshots"] == []
    del hub


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("line", ["fetch org/name", "save . me/mine@v1"])
def test_a_command_that_fills_the_store_is_refused_when_the_mode_forbids_it(
    run: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI_MODELCACHE_MODE", "read")
    outcome = run(line)
    assert outcome.code == 2
    assert "error: this command writes to the store, and the mode is read\n" in outcome.err
    assert "variable CI_MODELCACHE_MODE" in outcome.err


def test_a_private_model_needs_the_token_and_the_token_is_never_shown(
    run: Any, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = run("restore org/private")
    assert denied.code == 12, denied
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    outcome = run("restore org/private -vv")
    assert outcome.code == 0, outcome
    assert TOKEN not in outcome.out + outcome.err
    del hub


def test_a_deadline_is_kept_from_the_start_of_the_command(run: Any, hub: LoopbackHub) -> None:
    go_on = threading.Event()

    def stall(request: Any, respond: Any) -> Any:
        go_on.wait(60)
        return respond(request)

    hub.faults.append(stall)
    outcome = run("restore org/name --deadline 1s")
    go_on.set()
    assert outcome.code == 15, outcome
    assert "error: the deadline of 1s " in outcome.err


def test_fetch_fills_the_store_and_prints_what_to_pin(run: Any, hub: LoopbackHub) -> None:
    outcome = run("fetch org/name org/other")
    pins = outcome.out.split()
    assert [pin.partition("@")[0] for pin in pins] == ["org/name", "org/other"]
    assert "org/name@main: fetched from http" in outcome.err
    assert "in the store already" in run("fetch org/name").err
    hub.forget()
    assert run(f"restore {pins[0]} --offline").code == 0
    assert hub.requests() == []


@pytest.mark.usefixtures("hub")
def test_save_ls_info_verify_work_on_what_was_saved(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work/m").mkdir()
    (tmp_path / "work/m/config.json").write_bytes(b"{}")
    saved = run("save m me/mine@v1")
    commit = saved.out.strip().removeprefix("me/mine@")
    assert re.fullmatch(r"me/mine  v1  [0-9a-f]{12}  all  1 file  2 B\n", run("ls").out)
    assert run("info me/mine@v1 --json").json["commit"] == commit
    shown = run("info me/mine@v1").out
    assert re.search(rf"^commit +{commit}$", shown, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{64}  2 B  config.json$", shown, re.MULTILINE)
    assert "1 snapshot, 1 blob, 2 B read" in run("verify me/mine@v1").out


def test_an_empty_store_is_listed_as_such(run: Any) -> None:
    outcome = run("ls")
    assert (outcome.code, outcome.out) == (0, "")
    assert "holds no snapshots" in outcome.err


@pytest.mark.parametrize("line", ["ls", "info me/none", "verify"])
def test_a_command_that_looks_at_the_store_makes_none_and_needs_one(run: Any, tmp_path: Path, line: str) -> None:
    mistyped = run(f"{line} --store typo")
    assert mistyped.code == 2
    assert "there is no folder" in mistyped.err
    assert not (tmp_path / "work/typo").exists()
    off = run(f"{line} --mode off")
    assert off.code == 2
    assert "there is none: the mode is off" in off.err
    assert "the mode comes from: flag --mode; give --mode read" in off.err


def test_doctor_lists_its_checks_when_there_is_no_store(run: Any, tmp_path: Path) -> None:
    outcome = run("doctor --store typo")
    assert outcome.code == 2
    assert re.search(r"^ok +python", outcome.out, re.MULTILINE)
    assert re.search(r"^failed +store: there is no folder", outcome.out, re.MULTILINE)
    assert not (tmp_path / "work/typo").exists()


@pytest.mark.usefixtures("hub")
def test_who_is_asked_nothing_is_named_with_the_reason(run: Any) -> None:
    run("fetch org/name --store s")
    shutil.rmtree("s/blobs")
    err = run("restore org/name --store s --fail-on-miss --to d").err
    assert "offline" not in err
    assert "nobody (--fail-on-miss is set)" in err


@pytest.mark.parametrize("line", ["info me/none", "path me/none", "verify me/none"])
def test_what_nobody_stored_is_a_miss(run: Any, line: str) -> None:
    assert run(line).code == 10


@pytest.mark.usefixtures("hub")
def test_verify_of_a_store_with_a_wrong_byte_exits_with_13_and_names_the_file(run: Any, tmp_path: Path) -> None:
    run("fetch org/name org/other --store s")
    blob = max((tmp_path / "work/s/blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    outcome = run("verify --store s")
    assert outcome.code == 13, outcome
    assert re.search(r"^wrong: org/name@[0-9a-f]{40}: model.safetensors: ", outcome.out, re.MULTILINE)
    assert run("verify org/other --store s").code == 0
    report = run("verify --store s --json")
    assert (report.code, len(report.json["problems"])) == (13, 1)


def test_a_lock_is_written_checked_kept_to_and_needs_no_hub(run: Any, hub: LoopbackHub, tmp_path: Path) -> None:
    project = tmp_path / "work/modelcache.toml"
    project.write_text('[[models]]\nrepo = "org/name"\n')
    outcome = run("lock")
    assert re.fullmatch(r"added  org/name@main  [0-9a-f]{12}  3 files  102\.4 kB\n", outcome.out), outcome
    hub.forget()
    assert "matches: 1 model" in run("lock --check").out
    assert run("restore --locked --to d --json").json["snapshots"][0]["anchor"] == "lock"
    assert run("restore --locked").code == run("path org/name@main").code == 0
    assert hub.requests() == []
    assert run("restore org/other --locked").code == 10
    project.write_text('[[models]]\nrepo = "org/other"\n')
    for line in ("lock --check", "restore --locked"):
        stale = run(line)
        assert stale.code == 2
        assert "it lacks org/other@main" in stale.err
        assert "run ci-modelcache lock" in stale.err


def test_a_range_is_resolved_by_the_lock_and_restored_at_its_commit(run: Any, hub: LoopbackHub, tmp_path: Path) -> None:
    repository = hub.add_repo("org/tagged", {"main": {"config.json": b"{}"}})
    repository.tags["v1.2.0"] = repository.branches["main"]
    (tmp_path / "work/modelcache.toml").write_text('[[models]]\nrepo = "org/tagged"\nrevision = "^1.0"\n')
    unlocked = run("restore")
    assert unlocked.code == 2
    assert "a range of versions" in unlocked.err
    assert run("lock").code == 0
    assert run("restore --locked").code == 0
    for line in ("org/tagged@^1.0 --locked", "org/tagged --revision ^1.0 --locked"):
        assert run(f"restore {line} --json").json["snapshots"][0]["anchor"] == "lock"
    assert "write it into modelcache.toml" in run("restore org/tagged@^1.0").err
    other = run("restore org/tagged@^2.0 --locked")
    assert other.code == 10
    assert "the lock has org/tagged@^1.0" in other.err


@pytest.mark.usefixtures("hub")
def test_doctor_says_what_is_well_and_what_is_not(run: Any) -> None:
    outcome = run("doctor org/name")
    assert outcome.code == 0, outcome
    assert re.search(
        r"^ok +upstream: http://127.0.0.1:\d+ knows org/name@main as [0-9a-f]{40}$", outcome.out, re.MULTILINE
    )
    with_mirror = run("doctor org/name --mirror https://hub.internal")
    assert "hub.internal" not in with_mirror.out, "who was not asked"
    failed = run("doctor org/none --json")
    assert failed.code in {10, 12}
    assert [check["name"] for check in failed.json["checks"] if check["status"] == "failed"] == ["upstream"]


def test_the_demo_shows_a_miss_a_hit_and_a_local_one_and_leaves_nothing(run: Any, tmp_path: Path) -> None:
    (tmp_path / "work/m").mkdir()
    (tmp_path / "work/m/model.safetensors").write_bytes(bytes(3_000_000))
    outcome = run("demo --model-dir m --json")
    assert outcome.code == 0, outcome
    assert [step["result"] for step in outcome.json["steps"]] == ["miss", "hit", "local"]
    (named,) = outcome.json["steps"][0]["report"]["warnings"]
    assert named == f"{outcome.json['mirror']} sent wrong bytes: bytes 0 to 1000000 of model.safetensors are wrong"
    state = run("config --json").json["settings"]["state"]["value"]
    assert not [*importlib.import_module("pathlib").Path(state, "demo").iterdir()]


def test_every_command_is_in_the_group() -> None:
    assert list(commands.list_commands(click.Context(commands))) == list(COMMANDS)
