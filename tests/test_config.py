from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ci_modelcache.cli.shown import rows
from ci_modelcache.config import Config, environment, in_container
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.project import Project, ProjectModel
from ci_modelcache.model.ref import ModelRef, RepoType
from ci_modelcache.model.selection import Selection
from ci_modelcache.settings import SETTINGS, Mode, ProgressStyle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Load with flags, variables and the text of modelcache.toml in the working directory, in an empty home."""

    def load(
        flags: dict[str, object] | None = None,
        *,
        env: dict[str, str] | None = None,
        toml: str | None = None,
        users: str | None = None,
        in_container: bool = False,
    ) -> Config:
        work, home = tmp_path / "work", tmp_path / "home"
        for folder, text in ((work, toml), (home / ".config" / "ci-modelcache", users)):
            folder.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (folder / "modelcache.toml").write_text(text)
        environ = {"HOME": str(home), **(env or {})}
        return Config.load(flags or {}, environ=environ, cwd=work, in_container=in_container)

    return load


def said(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    return f"{caught.value.message} | {caught.value.hint}"


# --- the table


def test_every_setting_is_an_attribute_of_config_and_every_attribute_a_setting() -> None:
    attributes = {one.name for one in attrs.fields(Config)} - {"origins", "project", "token_sources", "variables"}
    assert attributes == {setting.attribute for setting in SETTINGS} - {"tokens"}


def test_names_and_variables_are_unique_and_derived() -> None:
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert next(s.variable for s in SETTINGS if s.name == "endpoint-url") == "CI_MODELCACHE_ENDPOINT_URL"


def test_a_setting_that_is_like_another_stands_after_it() -> None:
    names = [setting.name for setting in SETTINGS]
    for setting in SETTINGS:
        assert setting.like is None or names.index(setting.like) < names.index(setting.name)


def test_secrets_and_what_decides_where_we_write_unasked_are_kept_out_of_the_file() -> None:
    """Whoever can propose a change to it could have tokens kept, or lines written, where they are published or run."""
    assert [s.name for s in SETTINGS if s.secret] == ["token", "tokens"]
    assert {s.name for s in SETTINGS if not s.in_file} == {"token", "tokens", "state", "report", "ci", "offline-env"}


# --- defaults


def test_nothing_set_gives_the_defaults(load: Any, tmp_path: Path) -> None:
    config = load()
    home = tmp_path / "home"
    assert config.store == str(home / ".cache/ci-modelcache/store")
    assert config.state == home / ".cache/ci-modelcache"
    assert config.hub_cache == home / ".cache/huggingface/hub"
    assert config.lock_file == tmp_path / "work/modelcache.lock"
    assert (config.endpoint, config.mode, config.workers) == ("https://huggingface.co", Mode.AUTO, 8)
    assert (config.deadline, config.revision_ttl, config.offline) == (None, 3600.0, False)
    assert (config.token, config.region, config.endpoint_url, config.ca_bundle) == (None, None, None, None)
    assert (config.normalize, config.mtime, config.color, config.progress) == (False, None, True, ProgressStyle.AUTO)
    assert config.project == Project("modelcache.toml")
    assert {str(origin) for origin in config.origins.values()} == {"default"}


def test_the_cache_folder_of_the_desktop_moves_our_folders_and_the_hubs(load: Any, tmp_path: Path) -> None:
    config = load(env={"XDG_CACHE_HOME": str(tmp_path / "xdg")})
    assert config.state == tmp_path / "xdg/ci-modelcache"
    assert config.hub_cache == tmp_path / "xdg/huggingface/hub"


def test_an_empty_variable_is_an_unset_one(load: Any) -> None:
    config = load(env={"CI_MODELCACHE_STORE": "", "CI_MODELCACHE_OFFLINE": "", "HF_ENDPOINT": "", "NO_COLOR": ""})
    assert (config.offline, config.endpoint, config.color) == (False, "https://huggingface.co", True)


# --- precedence

WAYS = {
    "flag --deadline": 1.0,
    "variable CI_MODELCACHE_DEADLINE": 2.0,
    "modelcache.toml:2": 3.0,
    "users": 4.0,
    "default": None,
}


@pytest.mark.parametrize("first", range(len(WAYS)))
def test_flag_then_variable_then_project_file_then_users_file_then_default(
    load: Any, first: int, tmp_path: Path
) -> None:
    config = load(
        {"deadline": "1" if first <= 0 else None},
        env={"CI_MODELCACHE_DEADLINE": "2"} if first <= 1 else {},
        toml='# first line\ndeadline = "3s"\n' if first <= 2 else "",
        users="deadline = 4" if first <= 3 else "",
    )
    origin, value = list(WAYS.items())[first]
    users = str(tmp_path / "home/.config/ci-modelcache/modelcache.toml") + ":1"
    assert config.deadline == value
    assert str(config.origins["deadline"]) == (users if origin == "users" else origin)


def test_settings_of_both_files_are_used_together(load: Any) -> None:
    config = load(toml='region = "eu-west-1"', users="workers = 3")
    assert (config.region, config.workers) == ("eu-west-1", 3)


def test_hugging_face_variables_count_before_the_file_and_after_ours(load: Any) -> None:
    file = 'endpoint = "https://file.example"'
    assert load(env={"HF_ENDPOINT": "https://hf.example"}, toml=file).endpoint == "https://hf.example"
    env = {"HF_ENDPOINT": "https://hf.example", "CI_MODELCACHE_ENDPOINT": "https://ours.example"}
    assert load(env=env, toml=file).endpoint == "https://ours.example"


def test_variables_that_describe_the_machine_count_after_the_file(load: Any) -> None:
    env = {"AWS_REGION": "us-east-1", "CI": "true"}
    config = load(env=env, toml='region = "eu-west-1"')
    assert (config.region, str(config.origins["region"])) == ("eu-west-1", "modelcache.toml:1")
    bare = load(env=env, toml="")
    assert (bare.region, str(bare.origins["region"])) == ("us-east-1", "variable AWS_REGION")
    assert bare.progress is ProgressStyle.LINES


@pytest.mark.parametrize("value", ["false", "0", "No", "off"])
def test_ci_set_to_false_is_no_ci(load: Any, value: str) -> None:
    assert load(env={"CI": value}).progress is ProgressStyle.AUTO


@pytest.mark.parametrize(
    ("env", "attribute", "value"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline", True),
        ({"TRANSFORMERS_OFFLINE": "YES"}, "offline", True),
        ({"AWS_ENDPOINT_URL": "http://a:1"}, "endpoint_url", "http://a:1"),
        ({"AWS_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL_S3": "http://b:1"}, "endpoint_url", "http://b:1"),
        ({"AWS_DEFAULT_REGION": "r"}, "region", "r"),
        ({"SOURCE_DATE_EPOCH": "1700000000"}, "source_date_epoch", 1700000000),
        ({"NO_COLOR": "anything"}, "color", False),
    ],
)
def test_variables_of_other_tools_are_read(load: Any, env: dict[str, str], attribute: str, value: object) -> None:
    assert getattr(load(env=env), attribute) == value


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
    ],
)
def test_the_hub_cache_is_where_the_hubs_own_client_would_look(load: Any, env: dict[str, str], expected: str) -> None:
    assert str(load(env=env).hub_cache) == expected


def test_a_flag_turned_off_names_itself(load: Any) -> None:
    config = load({"offline": False}, env={"HF_HUB_OFFLINE": "1"})
    assert (config.offline, str(config.origins["offline"])) == (False, "flag --no-offline")


# --- containers, times


def test_in_a_container_times_are_normalized_unless_told_otherwise(load: Any) -> None:
    assert load(in_container=True).mtime == 0
    assert load({"normalize": False}, in_container=True).mtime is None
    assert load({"normalize": True}, env={"SOURCE_DATE_EPOCH": "7"}).mtime == 7


def test_a_container_is_known_by_its_marks_or_by_the_host_name_of_buildkit(tmp_path: Path) -> None:
    assert not in_container(root=tmp_path, host="runner-1")
    assert in_container(root=tmp_path, host="buildkitsandbox")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    assert in_container(root=tmp_path, host="runner-1")
    (tmp_path / "run" / ".containerenv").unlink()
    (tmp_path / ".dockerenv").touch()
    assert in_container(root=tmp_path, host="runner-1")


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_MODELCACHE_STORE", "here")
    assert environment() == dict(os.environ)


# --- certificates


def test_one_ca_bundle_serves_hub_and_store_and_beats_what_the_machine_says(load: Any, tmp_path: Path) -> None:
    env = {"AWS_CA_BUNDLE": "/aws", "REQUESTS_CA_BUNDLE": "/requests", "SSL_CERT_FILE": "/ssl"}
    config = load({"ca-bundle": "own.pem"}, env=env)
    assert config.hub_ca_bundle == config.store_ca_bundle == tmp_path / "work/own.pem"
    assert str(config.origins["store-ca-bundle"]) == "flag --ca-bundle"


def test_without_one_hub_and_store_each_follow_their_librarys_variable(load: Any) -> None:
    config = load(env={"AWS_CA_BUNDLE": "/aws", "REQUESTS_CA_BUNDLE": "/requests", "SSL_CERT_FILE": "/ssl"})
    assert (str(config.hub_ca_bundle), str(config.store_ca_bundle), config.ca_bundle) == ("/requests", "/aws", None)
    config = load(env={"SSL_CERT_FILE": "/ssl"})
    assert (str(config.hub_ca_bundle), str(config.store_ca_bundle)) == ("/ssl", "/ssl")


# --- paths


def test_a_path_means_what_it_meant_where_it_was_written(load: Any, tmp_path: Path) -> None:
    below = tmp_path / "work" / "deep" / "er"
    below.mkdir(parents=True)
    (tmp_path / "work" / "modelcache.toml").write_text('store = "models"\nlock-file = "~/the.lock"\n')
    home = tmp_path / "home"
    config = Config.load({"hub-cache": "hub"}, environ={"HOME": str(home)}, cwd=below)
    assert config.store == str(tmp_path / "work" / "models")
    assert config.lock_file == home / "the.lock"
    assert config.hub_cache == below / "hub"
    assert str(config.origins["store"]) == "../../modelcache.toml:1"
    assert load(toml='store = "s3://bucket/prefix"').store == "s3://bucket/prefix"


def test_the_lock_lies_beside_the_nearest_modelcache_toml(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "modelcache.toml").touch()
    (tmp_path / "a" / "modelcache.toml").touch()
    assert Config.load({}, environ={"HOME": str(tmp_path)}, cwd=below).lock_file == tmp_path / "a" / "modelcache.lock"


# --- tokens


def test_the_token_comes_from_ours_then_the_hubs_variables_then_its_file(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "home/.cache/huggingface/token"
    file.parent.mkdir(parents=True)
    file.write_text("hf_file\n")
    env = {"CI_MODELCACHE_TOKEN": "hf_ours", "HF_TOKEN": "hf_new", "HUGGING_FACE_HUB_TOKEN": "hf_old"}
    for expected in ("hf_ours", "hf_new", "hf_old"):
        assert load(env=env).token.secret == expected
        env.pop(next(iter(env)))
    config = load()
    assert (config.token.secret, str(config.origins["token"])) == ("hf_file", f"file {file}")


def test_the_token_file_may_be_elsewhere(load: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" hf_x \n")
    (tmp_path / "token").write_text("hf_y")
    assert load(env={"HF_TOKEN_PATH": str(tmp_path / "secret"), "HF_HOME": str(tmp_path)}).token.secret == "hf_x"
    assert load(env={"HF_HOME": str(tmp_path)}).token.secret == "hf_y"
    assert load(env={"HF_TOKEN_PATH": str(tmp_path / "none"), "HF_HOME": str(tmp_path)}).token is None


def test_a_token_file_that_cannot_be_read_is_no_token(load: Any, tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    assert load(env={"HF_HOME": str(tmp_path)}).token is None


def test_no_text_of_a_config_shows_the_token(load: Any) -> None:
    config = load(env={"HF_TOKEN": "hf_secretsecret"})
    shown = f"{config!r} {config} {rows(config)}"
    assert "hf_secretsecret" not in shown
    assert next(row for row in rows(config) if row.name == "token").value == "***"


def test_an_unusable_token_is_refused_without_being_shown(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(env={"HF_TOKEN": "hf_secret\nX-Evil: 1"})
    assert "variable HF_TOKEN" in said(caught)
    assert "hf_secret" not in said(caught)


HOSTILE = '[[models]]\nrepo = "a/b"\n'


def test_a_token_is_not_sent_to_an_endpoint_that_the_repositorys_file_names(
    load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    toml = 'endpoint = "https://evil.example"\n' + HOSTILE
    with caplog.at_level(logging.WARNING):
        config = load(env={"HF_TOKEN": "hf_secret"}, toml=toml)
    assert config.token is None
    assert "not used" in str(config.origins["token"])
    assert "modelcache.toml:1 names the endpoint https://evil.example" in caplog.text
    assert "CI_MODELCACHE_TOKEN" in caplog.text
    assert "hf_secret" not in caplog.text


def test_it_is_sent_there_when_our_own_variable_says_so(load: Any) -> None:
    toml = 'endpoint = "https://hub.example"'
    assert load(env={"CI_MODELCACHE_TOKEN": "hf_x"}, toml=toml).token.secret == "hf_x"


@pytest.mark.parametrize(
    ("env", "toml", "users"),
    [
        ({"HF_ENDPOINT": "https://hub.example"}, "", ""),
        ({"HF_ENDPOINT": "https://hub.example"}, 'endpoint = "https://evil.example"', ""),
        ({}, "", 'endpoint = "https://hub.example"'),
        ({}, 'endpoint = "https://huggingface.co"', ""),
    ],
)
def test_it_is_sent_to_an_endpoint_that_the_job_or_the_user_chose(
    load: Any, env: dict[str, str], toml: str, users: str
) -> None:
    assert load(env={"HF_TOKEN": "hf_x", **env}, toml=toml, users=users).token.secret == "hf_x"


def test_a_token_in_the_file_is_refused_without_being_shown(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(toml='\ntoken = "hf_leaked"')
    assert said(caught).startswith("modelcache.toml:2: token is a secret")
    assert "hf_leaked" not in said(caught)


# --- mistakes

MISTAKES = [
    ({"env": {"CI_MODELCACHE_STOR": "x"}}, "unknown variable CI_MODELCACHE_STOR; did you mean CI_MODELCACHE_STORE?"),
    ({"env": {"CI_MODELCACHE_OFFLINE": "maybe"}}, 'variable CI_MODELCACHE_OFFLINE: expected yes or no, got "maybe"'),
    ({"env": {"CI_MODELCACHE_WORKERS": "0"}}, 'CI_MODELCACHE_WORKERS: expected a whole number from 1 to 256, got "0"'),
    ({"env": {"CI_MODELCACHE_WORKERS": "9" * 9999}}, "expected a whole number from 1 to 256"),
    ({"env": {"CI_MODELCACHE_MODE": "rw"}}, 'expected auto or read or read-write or off, got "rw"'),
    ({"env": {"CI_MODELCACHE_DEADLINE": "soon"}}, "variable CI_MODELCACHE_DEADLINE: not a duration: 'soon'"),
    ({"env": {"HF_ENDPOINT": "huggingface.co"}}, "variable HF_ENDPOINT: expected a URL such as https://host:port/path"),
    ({"env": {"HF_ENDPOINT": "https://[::1"}}, "variable HF_ENDPOINT: expected a URL"),
    ({"env": {"HF_ENDPOINT": "https://host:port"}}, "variable HF_ENDPOINT: expected a URL"),
    ({"env": {"SOURCE_DATE_EPOCH": "-1"}}, "variable SOURCE_DATE_EPOCH: expected a whole number from 0"),
    ({"flags": {"region": " "}}, "flag --region: expected a region such as eu-west-1, got nothing"),
    ({"flags": {"deadline": "1x"}}, "flag --deadline: not a duration: '1x'"),
    ({"toml": "a = 1\n\nregoin = 'x'"}, "modelcache.toml:1: unknown setting a |"),
    (
        {"toml": "\nregoin = 'x'"},
        "modelcache.toml:2: unknown setting regoin; did you mean region? | the valid ones are",
    ),
    ({"toml": "workers = '8'"}, 'modelcache.toml:1: workers: expected a whole number from 1 to 256, got the text "8"'),
    ({"toml": "workers = true"}, "modelcache.toml:1: workers: expected a whole number from 1 to 256, got true"),
    (
        {"toml": "workers = 1.5"},
        "modelcache.toml:1: workers: expected a whole number from 1 to 256, got the number 1.5",
    ),
    (
        {"toml": "offline = 'yes'"},
        'offline: expected yes or no, got the text "yes" | write true or false, without quotes',
    ),
    ({"toml": "store = ['a']"}, "modelcache.toml:1: store: expected s3://BUCKET/PREFIX or a folder, got a list"),
    ({"toml": "[store]\nx = 1"}, "modelcache.toml:1: store: expected s3://BUCKET/PREFIX or a folder, got a table"),
    ({"toml": "store = 2020-01-01"}, "got a date or time"),
    ({"toml": "deadline = 15m"}, "modelcache.toml is not TOML:"),
    ({"users": "workers = 0"}, "ci-modelcache/modelcache.toml:1: workers: expected a whole number"),
    ({"users": HOSTILE}, "names models, which belong into the modelcache.toml of a project"),
    ({"toml": "models = 3"}, "modelcache.toml:1: models: expected tables, got the number 3"),
    ({"toml": "[models]\nrepo = 'a/b'"}, "modelcache.toml:1: models: expected tables, got a table"),
    ({"toml": HOSTILE + "[[models]]\nrevision = 'x'"}, "modelcache.toml:3: this model has no repo"),
    ({"toml": "[[models]]\nrepo = 'a/b/c'"}, "modelcache.toml:2: not a repository name: 'a/b/c'"),
    ({"toml": HOSTILE + "\nrevision = 'a..b'"}, "modelcache.toml:4: not a revision: 'a..b'"),
    ({"toml": HOSTILE + "revison = 'x'"}, "modelcache.toml:3: unknown key of a model revison; did you mean revision?"),
    (
        {"toml": HOSTILE + "type = 'modell'"},
        'modelcache.toml:3: type: expected model or dataset or space, got "modell"',
    ),
    ({"toml": HOSTILE + "include = '*.json'"}, "modelcache.toml:3: include: expected a list, got the text"),
    ({"toml": HOSTILE + "include = [\n1]"}, "modelcache.toml:3: include: expected a text in quotes, got the number 1"),
    ({"toml": HOSTILE + "revision = 3"}, "modelcache.toml:3: revision: expected a text in quotes, got the number 3"),
]


@pytest.mark.parametrize(("given", "expected"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(
    load: Any, given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(given.pop("flags", None), **given)
    assert expected in said(caught)


@pytest.mark.parametrize("url", ["https://user:pass@host/", "http://hf_secret@host"])
def test_credentials_in_a_url_are_refused_without_being_shown(load: Any, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(env={"HF_ENDPOINT": url})
    assert "not accepted" in said(caught)
    assert "pass" not in said(caught).replace("password", "")
    assert "hf_secret" not in said(caught)


def test_a_file_that_is_no_text_is_refused(load: Any, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "modelcache.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cannot read modelcache\.toml"):
        load()


# --- models


def test_models_are_read_with_all_that_may_be_said_about_them(load: Any) -> None:
    toml = """
store = \"\"\"
s3://bucket\"\"\"

[[models]]
repo = "org/name"

[[models]]
repo = "org/data"
type = "dataset"
revision = "v1"
include = [
    "*.json",
]
exclude = ["x/*"]
"""
    first, second = load(toml=toml).project.models
    assert first == ProjectModel("org/name")
    assert first.ref == ModelRef("org/name", "main")
    assert second.ref == ModelRef("org/data", "v1", RepoType.DATASET)
    assert second.selection == Selection(("*.json",), ("x/*",))


@pytest.mark.parametrize("revision", ["^1.2", "~1", ">=1.0 <2.0", "=1.0"])
def test_a_range_of_versions_is_kept_for_the_lock_and_is_no_reference(load: Any, revision: str) -> None:
    (model,) = load(toml=f'{HOSTILE}revision = "{revision}"').project.models
    assert (model.is_range, model.revision) == (True, revision)
    with pytest.raises(ConfigError, match="a range of versions") as caught:
        _ = model.ref
    assert "--locked" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("region = 1", 1),
        ("\r\n\r\nregion = 1\r\n", 3),
        ('store = """\nregion = 1\n"""\nregion = 2', 4),
        ("mode = 'read' # region\n# region = 3\n  'region' = 1", 3),
        ("[[models]]\nrepo = 'a/b'\n", 1),
    ],
)
def test_lines_are_those_an_editor_shows(text: str, line: int) -> None:
    project = Project.parse(text, where="f", known=["region", "store", "mode"])
    assert project.at("models" if "models" in text else "region") == f"f:{line}"
