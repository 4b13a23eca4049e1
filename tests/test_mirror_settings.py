"""What flags, variables and files say about mirrors, the tokens for them, and rates."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.cli.main import main
from ci_modelcache.cli.shown import rows
from ci_modelcache.config import Config
from ci_modelcache.errors import ConfigError
from ci_modelcache.model.mirror import Kind, Mirror
from ci_modelcache.model.mirror_table import token_variable
from ci_modelcache.model.rate import format_rate, parse_rate
from ci_modelcache.sources.token import Token

if TYPE_CHECKING:
    from pathlib import Path

A, B = "https://a.example", "https://b.example"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Load with flags for --mirror, variables, the text of the project's file and of the user's."""

    def load(*flags: str, env: dict[str, str] | None = None, toml: str = "", users: str = "", **more: object) -> Config:
        work, home = tmp_path / "work", tmp_path / "home"
        for folder, text in ((work, toml), (home / ".config" / "ci-modelcache", users)):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "modelcache.toml").write_text(text)
        given = {"mirrors": flags, **{name.replace("_", "-"): value for name, value in more.items()}}
        return Config.load(given, environ={"HOME": str(home), **(env or {})}, cwd=work)

    return load


def table(url: str, *lines: str) -> str:
    return "\n".join(["[[mirrors]]", f'url = "{url}"', *lines, ""])


def urls(config: Config) -> list[str]:
    return [mirror.url for mirror in config.mirrors]


def said(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    return f"{caught.value.message} | {caught.value.hint}"


# --- which mirrors


def test_without_mirrors_there_are_none(load: Any) -> None:
    config = load()
    assert (config.mirrors, config.token_sources, config.trust_mirror_metadata) == ((), (), False)
    assert (config.limit_rate, config.report) == (None, None)


def test_a_flag_replaces_a_variable_and_that_one_the_aliases_and_those_the_files(load: Any) -> None:
    env = {"CI_MODELCACHE_MIRRORS": "https://ours", "HF_MIRROR_PRIORITY": "https://theirs"}
    files = {"toml": table("https://project"), "users": table("https://user")}
    assert urls(load("https://flag", env=env, **files)) == ["https://flag"]
    for expected, origin in (("https://ours", "CI_MODELCACHE_MIRRORS"), ("https://theirs", "HF_MIRROR_PRIORITY")):
        config = load(env=env, **files)
        assert (urls(config), str(config.origins["mirrors"])) == ([expected], f"variable {origin}")
        del env[origin]
    assert urls(load(**files)) == ["https://project"]
    assert urls(load(users=files["users"])) == ["https://user"]


def test_a_project_can_want_no_mirrors(load: Any) -> None:
    assert load(toml="mirrors = []", users=table(A)).mirrors == ()


def test_a_variable_holds_urls_between_commas_and_white_space_in_their_order_and_each_counts_once(load: Any) -> None:
    config = load(env={"CI_MODELCACHE_MIRRORS": f" {B}/,{A}\n{B} , https://c.example "})
    assert urls(config) == [B, A, "https://c.example"]
    assert [mirror.priority for mirror in config.mirrors] == [1, 2, 3]


def test_a_flag_is_one_url_and_several_flags_keep_their_order(load: Any, tmp_path: Path) -> None:
    config = load("./with space, and comma", A, A)
    assert urls(config) == [str(tmp_path / "work" / "with space, and comma"), A]


def test_tables_are_sorted_by_priority_and_those_of_one_priority_keep_their_order(load: Any) -> None:
    toml = table(A) + table(B, "priority = 7") + table("https://c.example") + table("https://d.example", "priority = 7")
    assert urls(load(toml=toml)) == [B, "https://d.example", A, "https://c.example"]


def test_a_table_may_say_all_that_a_mirror_has(load: Any) -> None:
    users = table("s3://bucket/x", 'region = "eu-west-1"', 'max_rate = "20MB"', "trust = true", "priority = 1")
    users += table(A, 'token = "file:~/secret"', "max_rate = 500")
    store, hub = load(users=users).mirrors
    assert store == Mirror("s3://bucket/x", priority=1, region="eu-west-1", max_rate=20_000_000, trust=True)
    assert (hub.kind, hub.max_rate, hub.token.endswith("/home/secret")) == (Kind.HUB, 500, True)


def test_what_files_say_about_a_url_counts_also_when_a_flag_or_variable_names_it(load: Any) -> None:
    toml = table(A, 'max_rate = "1MB"', "priority = 50")
    users = table(A, 'max_rate = "9MB"', "trust = true", 'token = "oidc:github?audience=x"')
    expected = Mirror(A, priority=2, max_rate=1_000_000, trust=True, token="oidc:github?audience=x")
    for config in (
        load(B, A, toml=toml, users=users),
        load(env={"HF_MIRROR_PRIORITY": f"{B} {A}"}, toml=toml, users=users),
    ):
        assert config.mirrors == (Mirror(B, priority=1), expected)


def test_a_folder_means_what_it_meant_where_it_was_written(load: Any, tmp_path: Path) -> None:
    config = load(users=table("./models") + table("~/more") + table("/abs") + table("file:///url"))
    home = tmp_path / "home"
    assert urls(config) == [str(home / ".config/ci-modelcache/models"), str(home / "more"), "/abs", "file:///url"]
    assert urls(load("./here")) == [str(tmp_path / "work/here")]


def test_the_endpoint_of_the_hubs_variable_stays_the_authority(load: Any) -> None:
    config = load(A, env={"HF_ENDPOINT": B, "HF_TOKEN": "hf_x"})
    assert (config.endpoint, urls(config), config.token_sources) == (B, [A], ())


MISTAKES = [
    (
        {"env": {"HF_MIRROR_PRIORITY": "hub.internal"}},
        "variable HF_MIRROR_PRIORITY: not the address of a mirror: 'hub.internal' | write https://hub.internal for a host, or ./hub.internal for a folder",
    ),
    ({"toml": table("ftp://x")}, "modelcache.toml:2: url: not the address of a mirror: 'ftp://x' | write https://host"),
    ({"toml": table("https://")}, "modelcache.toml:2: url: not the address of a mirror"),
    ({"toml": table(r"https://a\nb")}, "modelcache.toml:2: url: not the address of a mirror"),
    ({"toml": table("https://a b")}, "modelcache.toml:2: url: not the address of a mirror"),
    ({"toml": "[[mirrors]]\npriority = 1"}, "modelcache.toml:1: this mirror has no url | add a line url ="),
    ({"toml": "[[mirrors]]\nurl = 3"}, "modelcache.toml:2: url: expected a text in quotes, got the number 3"),
    (
        {"toml": table(A, "prioritty = 1")},
        "modelcache.toml:3: unknown key of a mirror prioritty; did you mean priority?",
    ),
    (
        {"toml": table(A, "priority = true")},
        "modelcache.toml:3: priority: expected a whole number from 0 to 9999, got true",
    ),
    (
        {"toml": table(A, "priority = -1")},
        "modelcache.toml:3: priority: expected a whole number from 0 to 9999, got the number -1",
    ),
    (
        {"toml": table(A, 'max_rate = "20Mb"')},
        "modelcache.toml:3: max_rate: not a rate: '20Mb', which may mean bits | write bytes a second as 20MB",
    ),
    (
        {"toml": table(A, "max_rate = 0")},
        "modelcache.toml:3: max_rate: expected a rate such as 20MB, or bytes a second, got the number 0",
    ),
    (
        {"toml": table(A, "max_rate = 1.5")},
        "modelcache.toml:3: max_rate: expected a rate such as 20MB, or bytes a second, got the number 1.5",
    ),
    (
        {"toml": table(A, 'trust = "yes"')},
        'modelcache.toml:3: trust: expected yes or no, got the text "yes" | write true or false, without quotes',
    ),
    ({"toml": table(A, 'region = "eu"')}, "modelcache.toml:3: region: only a mirror at s3:// has one"),
    (
        {"toml": table("s3://b", 'region = "us east"')},
        'modelcache.toml:3: region: expected a region such as eu-west-1, got the text "us east"',
    ),
    (
        {"users": table("s3://b", 'token = "env:X"')},
        "modelcache.toml:3: token: a store takes no token | S3 keys are found",
    ),
    (
        {"toml": table(A) + table(f"{A}/")},
        f"modelcache.toml:3: the mirror {A} has a table already, at modelcache.toml:1",
    ),
    ({"toml": "mirrors = 'https://a'"}, "modelcache.toml:1: mirrors: expected tables, got the text"),
    ({"toml": "tokens = 'a=env:B'"}, "modelcache.toml:1: tokens is a secret"),
    ({"env": {"CI_MODELCACHE_TOKENS": "a=env:B 'c"}}, "variable CI_MODELCACHE_TOKENS: a quotation mark has no partner"),
    ({"env": {"CI_MODELCACHE_LIMIT_RATE": "fast"}}, "variable CI_MODELCACHE_LIMIT_RATE: not a rate: 'fast'"),
    ({"toml": "limit-rate = 0"}, "modelcache.toml:1: limit-rate: a rate of 0 lets nothing through"),
    ({"deadline": "0"}, "flag --deadline: a deadline of 0 leaves no time for anything | leave it out to have none"),
    ({"region": "us east"}, 'flag --region: expected a region such as eu-west-1, got "us east"'),
]


@pytest.mark.parametrize(("given", "expected"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(
    load: Any, given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**given)
    assert expected in said(caught)


def test_credentials_in_an_address_are_refused_without_being_shown(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load("https://me:hf_secret@hub.example")
    assert "flag --mirror: a user name or password in the address of the mirror hub.example" in said(caught)
    assert "hf_secret" not in said(caught)


# --- rates


@given(st.integers(min_value=1, max_value=10**14))
def test_a_rate_is_read_as_it_is_written(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("20MB", 20_000_000, "20MB/s"),
        ("500kB/s", 500_000, "500kB/s"),
        ("1.5GB", 1_500_000_000, "1.5GB/s"),
        ("1 KB", 1000, "1kB/s"),
        ("64MiB", 67_108_864, "67108.864kB/s"),
        ("1234567", 1_234_567, "1234.567kB/s"),
        ("7B", 7, "7B/s"),
    ],
)
def test_rates_are_bytes_a_second(text: str, rate: int, shown: str) -> None:
    assert (parse_rate(text), format_rate(rate)) == (rate, shown)


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1e6", "20 MB s", "20Mbit", "20M", "1,5MB", "0", "0.1B", "٣MB"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rate(text)


# --- tokens


def sources(config: Config) -> dict[str, str]:
    """The provider of every origin, tokens by their secret."""
    return {
        one.address: one.provider.secret if isinstance(one.provider, Token) else one.provider
        for one in config.token_sources
    }


def test_a_token_comes_from_the_variable_of_the_host_then_the_list_then_the_users_file(load: Any) -> None:
    users = table(f"{A}/hub", 'token = "file:/secret"')
    env = {
        "CI_MODELCACHE_TOKEN_A_EXAMPLE": "tok_variable",
        "CI_MODELCACHE_TOKENS": "A.example:443=oidc:github?audience=x",
    }
    for expected in ("tok_variable", "oidc:github?audience=x"):
        config = load(A, env=env, users=users)
        assert sources(config) == {A: expected}
        del env[next(iter(env))]
    config = load(A, users=users)
    assert sources(config) == {A: "file:/secret"}
    assert str(config.token_sources[0].origin).endswith("ci-modelcache/modelcache.toml:3")


def test_providers_with_spaces_are_quoted_as_in_a_shell(load: Any) -> None:
    env = {"CI_MODELCACHE_TOKENS": "'a.example=command:vault read x'\nb.example=keep"}
    assert sources(load(A, B, env=env)) == {A: "command:vault read x", B: "keep"}


def test_a_host_variable_may_serve_the_endpoint_and_each_origin_is_named_once(load: Any) -> None:
    env = {"CI_MODELCACHE_TOKEN_A_EXAMPLE": "tok_a", "HF_ENDPOINT": A, "HF_TOKEN": "hf_x"}
    config = load(f"files+{A}/one", f"{A}/two", B, env=env)
    assert sources(config) == {A: "tok_a"}
    assert config.token == Token("hf_x")


def test_ports_and_schemes_tell_origins_apart(load: Any) -> None:
    env = {"CI_MODELCACHE_TOKEN_A_EXAMPLE_8443": "tok_port", "CI_MODELCACHE_TOKEN_127_0_0_1_80": "tok_loop"}
    config = load(f"{A}:8443", A, "https://127.0.0.1:80", env=env)
    assert sources(config) == {f"{A}:8443": "tok_port", "https://127.0.0.1:80": "tok_loop"}


def test_a_variable_that_a_provider_names_gives_the_token_itself(load: Any) -> None:
    users = table(A, 'token = "env:MY_TOKEN"')
    config = load(users=users, env={"MY_TOKEN": "tok_mine", "OTHER": "x"})
    assert sources(config) == {A: "tok_mine"}
    assert set(config.variables) == {"MY_TOKEN", "HOME"}
    assert set(config.secrets) == {"tok_mine"}


def test_a_named_variable_that_is_not_set_is_no_token_and_says_so(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load(users=table(A, 'token = "env:MY_TOKEN"')).token_sources == ()
    assert "no token for a.example" in caplog.text
    assert "modelcache.toml:3 names the variable MY_TOKEN, which is not set" in caplog.text


def test_a_variable_that_fits_nobody_is_warned_about_with_the_names_that_would(
    load: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(
            "https://hf-mirror.example", env={"CI_MODELCACHE_TOKEN_HFMIRROR": "tok_x", "CI_MODELCACHE_TOKENS": "b=keep"}
        )
    assert "variable CI_MODELCACHE_TOKEN_HFMIRROR is for no mirror and not for the endpoint" in caplog.text
    assert "CI_MODELCACHE_TOKEN_HUGGINGFACE_CO, CI_MODELCACHE_TOKEN_HF__MIRROR_EXAMPLE" in caplog.text
    assert "variable CI_MODELCACHE_TOKENS: b is no mirror" in caplog.text
    assert "tok_x" not in caplog.text


def test_providers_get_the_variables_that_they_need_and_no_others(load: Any) -> None:
    env = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": "https://runner/x",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "tok_request",
        "GITLAB_TOKEN": "tok_gitlab",
        "SUBJECT": "tok_subject",
        "UNRELATED": "x",
        "CI_MODELCACHE_TOKENS": "a.example=oidc:gitlab?variable=GITLAB_TOKEN b.example=exchange:https://x?subject=env%3ASUBJECT",
    }
    config = load(A, B, env=env)
    names = {"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITLAB_TOKEN", "SUBJECT"}
    assert set(config.variables) == {*names, "HOME"}
    assert set(config.secrets) >= {"tok_request", "tok_gitlab", "tok_subject"}


# --- what a repository's file may not do


def test_a_projects_file_may_name_the_variable_of_that_very_host(load: Any) -> None:
    toml = table("https://my-hub.example:8443", 'token = "env:CI_MODELCACHE_TOKEN_MY__HUB_EXAMPLE_8443"')
    config = load(toml=toml, env={"CI_MODELCACHE_TOKEN_MY__HUB_EXAMPLE_8443": "tok_x"})
    assert sources(config) == {"https://my-hub.example:8443": "tok_x"}


@pytest.mark.parametrize(
    "provider",
    [
        "env:AWS_SECRET_ACCESS_KEY",
        "env:CI_MODELCACHE_TOKEN_B_EXAMPLE",
        "file:/etc/x",
        "command:sh",
        "oidc:github?audience=x",
        "keep",
    ],
)
def test_a_projects_file_may_name_no_other_provider(load: Any, provider: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(toml=table(A, f'token = "{provider}"'))
    assert "modelcache.toml:3: token: in the file of a project" in said(caught)
    assert "from env:CI_MODELCACHE_TOKEN_A_EXAMPLE alone" in said(caught)


@pytest.mark.parametrize("given", ["toml", "users"])
def test_a_token_in_place_of_a_provider_is_refused_without_being_shown(load: Any, given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{given: table(A, 'token = "hf_leaked"')})
    assert "modelcache.toml:3: token: expected what provides the token" in said(caught)
    assert "hf_leaked" not in said(caught)


@pytest.mark.parametrize("text", ["a.example=hf_leaked", "hf_leaked", "a.example=env:X hf_leaked=y"])
def test_a_token_in_the_list_of_providers_is_refused_without_being_shown(load: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(env={"CI_MODELCACHE_TOKENS": text})
    assert "variable CI_MODELCACHE_TOKENS: expected HOST=PROVIDER" in said(caught)
    assert "hf_leaked" not in said(caught)


def test_a_host_of_a_projects_choice_gets_no_variable_that_may_mean_another_host(load: Any) -> None:
    """CI_MODELCACHE_TOKEN_HUB_CORP_COM is for hub.corp.com; hub-corp.com is for sale."""
    env = {"CI_MODELCACHE_TOKEN_HUB_CORP_COM": "tok_corp"}
    assert load(toml=table("https://hub-corp.com"), env=env).token_sources == ()
    assert sources(load(toml=table("https://hub.corp.com"), env=env)) == {"https://hub.corp.com": "tok_corp"}
    assert sources(load("https://hub-corp.com", env=env)) == {"https://hub-corp.com": "tok_corp"}


def test_a_projects_file_cannot_move_a_token_onto_an_open_line(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    env = {"CI_MODELCACHE_TOKEN_A_EXAMPLE": "tok_a", "CI_MODELCACHE_TOKEN_127_0_0_1_9": "tok_loop"}
    with caplog.at_level(logging.WARNING):
        config = load(toml=table("http://a.example") + table("http://127.0.0.1:9"), env=env)
    assert sources(config) == {"http://127.0.0.1:9": "tok_loop"}
    assert "without TLS anybody could read it" in caplog.text
    users = table(A, 'token = "file:/secret"')
    assert load(toml=table("http://a.example"), users=users).token_sources == ()
    for elsewhere in ("localhost.example", "127.0.0.1.example", "localhost-x"):
        env = {token_variable(elsewhere): "tok_a"}
        assert load(toml=table(f"http://{elsewhere}"), env=env).token_sources == ()


# --- what is shown


def test_no_text_of_a_config_shows_a_secret(load: Any) -> None:
    users = table(A, 'token = "exchange:https://x?client_secret=hush_hush"')
    env = {
        "CI_MODELCACHE_TOKEN_B_EXAMPLE": "tok_bbbbbb",
        "CI_MODELCACHE_TOKENS": "c.example=env:CCC",
        "CCC": "tok_cccccc",
    }
    config = load(A, B, "https://c.example", env=env, users=users)
    shown = f"{config!r} {config} {rows(config)}"
    for secret in ("tok_bbbbbb", "tok_cccccc", "hush_hush"):
        assert secret not in shown
    assert {"tok_bbbbbb", "tok_cccccc"} <= set(config.secrets)


def test_config_prints_mirrors_with_all_they_have_and_where_tokens_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CI_MODELCACHE_TOKEN_A_EXAMPLE", "tok_aaaaaa")
    (tmp_path / "modelcache.toml").write_text(table(A, 'max_rate = "20MB"', "trust = true") + table("s3://b/c"))
    assert main(["config", "--json", "--limit-rate", "1MB/s"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    common = {"priority": 100, "token": None, "region": None}
    assert settings["mirrors"]["origin"] == "modelcache.toml:1"
    assert settings["mirrors"]["value"] == [
        {"url": A, "kind": "hub", "max_rate": 20_000_000, "trust": True, **common},
        {"url": "s3://b/c", "kind": "store", "max_rate": None, "trust": False, **common},
    ]
    variable = "variable CI_MODELCACHE_TOKEN_A_EXAMPLE"
    assert settings["tokens"]["value"] == [{"host": "a.example", "provider": "***", "origin": variable}]
    assert settings["limit-rate"] == {"value": 1_000_000, "origin": "flag --limit-rate"}
    assert main(["config", "--mirror", B, "--mirror", A]) == 0
    lines = capsys.readouterr().out.splitlines()
    (number,) = (number for number, line in enumerate(lines) if line.startswith("mirrors "))
    assert lines[number].split() == ["mirrors", B, "flag", "--mirror"]
    assert lines[number + 1].split() == [A, "(at", "most", "20MB/s,", "trusted)"]
