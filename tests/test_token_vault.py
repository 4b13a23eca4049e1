"""Tokens on the disk: encrypted, for their own user, and never a failure when they are lost."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from ci_modelcache.errors import ConfigError
from ci_modelcache.sources.token import Token
from ci_modelcache.sources.tokens.issued import Issued
from ci_modelcache.sources.tokens.keep import Kept, keep
from ci_modelcache.sources.tokens.vault import Label, Memory, Vault, open_vault
from ci_modelcache.transfer.deadline import Deadline
from tests.parts.clocks import Clock
from tests.parts.token_servers import handing_out, serving_tokens
from tests.parts.users import unprivileged

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "looks-like-any-other-word"
IDENTITY = "the-subject-of-the-job"
LABEL = Label("hub.internal", "exchange:https://sts.internal/token of env:KEY", IDENTITY)
ISSUED = Issued(Token(SECRET), 1000.0, 4600.5)


class Ring:
    """A keyring that lives as long as this object."""

    name = "ring of a test"

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            msg = "locked"
            raise RuntimeError(msg)
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


def vault_with(folder: Path, ring: Ring | None = None, now: Clock | None = None) -> Vault:
    """The tokens in *folder*; never with the keyring of whoever runs the tests."""
    return open_vault(folder, now=now or Clock(), keyring=lambda: ring)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def vault(folder: Path) -> Vault:
    return vault_with(folder)


def token_file(folder: Path) -> Path:
    (path,) = folder.glob("*.token")
    return path


def test_what_was_put_there_is_there_for_whoever_asks_with_the_same_words(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    assert vault_with(folder).get(LABEL) == ISSUED
    for other in (
        Label("x", LABEL.provider, IDENTITY),
        Label(LABEL.host, "x", IDENTITY),
        Label(LABEL.host, LABEL.provider),
    ):
        assert vault.get(other) is None
    vault.drop(LABEL)
    assert vault.get(LABEL) is None


def test_nothing_on_the_disk_shows_the_token_or_who_asked_and_nobody_else_may_read_it(
    vault: Vault, folder: Path
) -> None:
    vault.put(LABEL, ISSUED)
    for path in folder.rglob("*"):
        assert SECRET.encode() not in path.read_bytes()
        assert IDENTITY.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_same_token_is_never_written_twice_in_the_same_way(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    first = token_file(folder).read_bytes()
    vault.put(LABEL, ISSUED)
    assert token_file(folder).read_bytes() != first


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"note": 1}'])
def test_a_damaged_file_is_put_aside_and_told(
    vault: Vault, folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    vault.put(LABEL, ISSUED)
    path = token_file(folder)
    path.write_bytes(damage)
    assert vault.notes() == ()
    assert vault.get(LABEL) is None
    assert path.with_name(path.name + ".damaged").read_bytes() == damage
    assert "it is put aside" in caplog.text
    vault.put(LABEL, ISSUED)
    assert vault.get(LABEL) == ISSUED


@pytest.mark.parametrize(
    ("field", "value"), [("until", 1e12), ("host", "evil.internal"), ("since", 0.0), ("format", 2)]
)
def test_what_stands_in_the_open_cannot_be_changed(vault: Vault, folder: Path, field: str, value: object) -> None:
    vault.put(LABEL, ISSUED)
    path = token_file(folder)
    document = json.loads(path.read_bytes())
    document["note"][field] = value
    path.write_text(json.dumps(document))
    assert vault.get(LABEL) is None


def test_with_another_key_the_token_is_not_there_and_listed_as_unreadable(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    assert [vault.can_open(note) for note in vault.notes()] == [True]
    (folder / "key").unlink()
    other = vault_with(folder)
    assert other.get(LABEL) is None
    assert [other.can_open(note) for note in other.notes()] == [False]


def test_a_file_that_was_sealed_with_another_key_is_put_aside(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    sealed = token_file(folder).read_bytes()
    (folder / "key").unlink()
    token_file(folder).unlink()
    other = vault_with(folder)
    other.put(LABEL, ISSUED)
    token_file(folder).write_bytes(sealed)
    assert other.get(LABEL) is None
    assert list(folder.glob("*.damaged"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_may_use_is_refused(vault: Vault, folder: Path, mode: int) -> None:
    vault.put(LABEL, ISSUED)
    (folder / "key").chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"others may use the key of the tokens: .* has mode {mode:04o}, expected 0600"
    ) as caught:
        vault_with(folder).get(LABEL)
    assert f"chmod 600 {folder / 'key'}" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"short", b"*" * 44])
def test_a_key_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "key").write_bytes(content)
    (folder / "key").chmod(0o600)
    with pytest.raises(ConfigError, match="the key of the tokens is damaged"):
        vault_with(folder).get(LABEL)


def test_the_key_of_another_user_is_left_to_him(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    with unprivileged(folder / "key", mode=0), pytest.raises(ConfigError, match="Permission denied") as caught:
        vault_with(folder).get(LABEL)
    assert "give each user a state folder of his own" in str(caught.value.hint)


def test_a_key_behind_a_link_is_refused(vault: Vault, folder: Path) -> None:
    vault.put(LABEL, ISSUED)
    (folder / "key").rename(folder / "elsewhere")
    (folder / "key").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="cannot read the key of the tokens"):
        vault_with(folder).get(LABEL)


def test_a_folder_that_cannot_be_written_keeps_nothing_and_fails_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with unprivileged(tmp_path):
        vault = vault_with(tmp_path / "tokens")
        assert vault.get(LABEL) is None
        vault.put(LABEL, ISSUED)
        assert vault.get(LABEL) is None
    assert "tokens are kept in memory only" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_any_more_fails_nobody(
    vault: Vault, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ended = Label("other.internal", "x")
    vault.put(ended, Issued(Token(SECRET), 1.0, 2000.0))
    vault.put(LABEL, ISSUED)
    with unprivileged(folder):
        later = vault_with(folder, now=Clock(3000.0))
        later.put(ended, Issued(Token("another-of-the-same"), 2900.0, 4000.0))
        later.drop(LABEL)
    assert "the token for other.internal is not kept" in caplog.text
    assert "the token for hub.internal could not be removed" in caplog.text


def test_what_has_ended_is_swept(folder: Path) -> None:
    clock = Clock()
    vault = vault_with(folder, now=clock)
    vault.put(LABEL, ISSUED)
    keep("kept.internal", Token(SECRET), vault=vault, now=clock.now)
    clock.now = 5000.0
    vault.put(Label("other.internal", "x"), Issued(Token(SECRET), 5000.0, 6000.0))
    assert [note.host for note in vault.notes()] == ["kept.internal", "other.internal"]


def test_a_token_of_login_is_kept_until_logout(vault: Vault) -> None:
    provider = Kept("hub.internal", lambda: vault)
    with pytest.raises(ConfigError, match=r"no token is kept for hub\.internal") as caught:
        provider.issue(deadline=Deadline())
    assert "ci-modelcache auth login hub.internal" in str(caught.value.hint)
    keep("hub.internal", Token(SECRET), vault=vault, now=1000.0)
    assert provider.issue(deadline=Deadline()).token == Token(SECRET)
    assert vault.drop_all("hub.internal") == 1
    with pytest.raises(ConfigError):
        provider.issue(deadline=Deadline())


# --- the keyring


def test_the_key_is_in_the_keyring_where_there_is_one(folder: Path) -> None:
    ring = Ring()
    vault_with(folder, ring).put(LABEL, ISSUED)
    assert vault_with(folder, ring).get(LABEL) == ISSUED
    assert "in the keyring of the system (ring of a test)" in vault_with(folder, ring).protection
    assert len(ring.kept) == 1
    assert not (folder / "key").exists()


def test_a_keyring_that_does_not_work_is_told_and_a_key_file_is_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = Ring()
    ring.locked = True
    vault_with(folder, ring).put(LABEL, ISSUED)
    assert (folder / "key").exists()
    assert "the keyring of the system does not work: RuntimeError: a key file is used" in caplog.text


BACKEND = """
from pathlib import Path
from keyring.backend import KeyringBackend

class Ring(KeyringBackend):
    priority = 5
    file = Path(__file__).with_name("ring")

    def get_password(self, service, username):
        return self.file.read_text() if self.file.exists() else None

    def set_password(self, service, username, password):
        self.file.write_text(password)
"""


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        ("ring_of_a_test.Ring", "ring"),
        ("keyring.backends.null.Keyring", "key"),
        ("keyring.backends.null.NoSuchKeyring", "key"),
        ("no_such_module.Keyring", "key"),
    ],
)
def test_the_keyring_of_the_system_is_used_unless_it_keeps_nothing(tmp_path: Path, backend: str, file: str) -> None:
    (tmp_path / "ring_of_a_test.py").write_text(BACKEND)
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "PYTHON_KEYRING_BACKEND": backend}
    command = [sys.executable, "-m", "ci_modelcache", "auth"]
    done = [
        subprocess.run(
            [*command, action, "hub.internal"], input=given, env=environment, capture_output=True, text=True, check=True
        )
        for action, given in (("login", SECRET), ("status", ""))
    ]
    assert "encrypted" in done[-1].stdout
    assert [path.name for path in tmp_path.rglob("*") if path.name in {"ring", "key"}] == [file]


# --- without the extra

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"cryptography", "keyring"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from ci_modelcache.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def without_the_extra(tmp_path: Path, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line where neither cryptography nor keyring can be imported."""
    environment = {"HOME": str(tmp_path), "PATH": "", **environment}
    command = [sys.executable, "-c", textwrap.dedent(BLOCKED), *line.split()]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, input="a-token-to-keep", env=environment
    )


def test_without_the_library_nothing_is_kept_and_status_and_login_say_so(tmp_path: Path) -> None:
    status = without_the_extra(tmp_path, "auth status")
    assert (status.returncode, status.stderr) == (0, "")
    assert "in memory only: pip install 'ci-modelcache[auth]'" in status.stdout
    login = without_the_extra(tmp_path, "auth login hub.internal")
    assert login.returncode == 2
    assert "a token cannot be kept without encryption" in login.stderr
    assert "ci-modelcache[auth]" in login.stderr
    assert not list(tmp_path.rglob("tokens"))


def test_without_the_library_tokens_are_exchanged_all_the_same(tmp_path: Path) -> None:
    with serving_tokens(handing_out()) as server, serving_tokens(handing_out()) as hub:
        environment = {
            "CI_MODELCACHE_ENDPOINT": hub.url,
            "CI_MODELCACHE_TOKENS": f"{hub.url.partition('//')[2]}=exchange:{server.url}/t?subject=env:KEY",
            "KEY": "long-lived-key",
        }
        without_the_extra(tmp_path, "fetch org/name", **environment)
        assert len(server.asked) == 1
        assert hub.asked[0].bearer == "issued-1-opaque"
    assert not list(tmp_path.rglob("*.token"))


def test_memory_keeps_nothing() -> None:
    vault = Memory()
    vault.put(LABEL, ISSUED)
    assert (vault.get(LABEL), vault.notes(), vault.drop_all("hub.internal")) == (None, (), 0)
