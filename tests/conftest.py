"""
What holds in every test: a bare environment, a home of its own, and no network beyond loopback.

Fixtures live beside what they start, in ``tests/parts/<part>.py``: write a module with fixtures there, add
its name to `pytest_plugins` below, and every test can use them. A part that a test needs and that
is not installed is an error, never a skip.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = [
    "tests.parts.disks",
    "tests.parts.hub_clients",
    "tests.parts.servers",
    "tests.parts.faults",
    "tests.parts.hub",
    "tests.parts.verbs",
    "tests.parts.upstreams",
    "tests.parts.policies",
    "tests.parts.real_model",
    "tests.parts.single_file",
    "tests.parts.engine",
    "tests.parts.buildah",
    "tests.parts.baking",
]
pytest.register_assert_rewrite("tests.contracts")

# Who is started in the background of a shell ignores Ctrl-C, and so would all programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# uv, which tests start as users do, trusts authorities of its own; where packages come through a proxy, the system knows whose it is.
os.environ.setdefault("UV_SYSTEM_CERTS", "true")

# The same examples on every run, and none of them too slow because another job uses this machine.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("project")

_OURS = ("AWS_", "HF_", "HUGGING", "CI_", "RCLONE_", "GITHUB_", "GITLAB_", "ACTIONS_", "RUNNER_", "MODELCACHE_")
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"}

for _name in list(os.environ):
    # For good, not by a fixture: servers that live as long as the session are started before any fixture of a test.
    if _name.startswith(_OURS) or _name.lower() in _PROXIES:
        del os.environ[_name]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No file of the person who runs the tests is seen by them, and no variable either; returns the empty home."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws-credentials"))
    # Otherwise botocore asks 169.254.169.254 when there are no credentials, and waits for it.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The keyring of the person who runs the tests.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return home


def _is_loopback(host: object) -> bool:
    if host in {None, "", b"", "localhost", b"localhost"}:
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A connection or a name look-up beyond loopback fails the test, also when the code swallows the refusal."""
    attempts: list[str] = []
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: object) -> None:
        if not _is_loopback(host):
            attempts.append(str(host))
            msg = f"a test tried to reach {host!r}; only loopback is allowed"
            raise OSError(msg)

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            refuse(address[0])
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            refuse(address[0])
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *args: Any, **options: Any) -> Any:
        refuse(host)
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield attempts
    if attempts:
        pytest.fail(f"the test tried to reach {', '.join(sorted(set(attempts)))}; only loopback is allowed")
