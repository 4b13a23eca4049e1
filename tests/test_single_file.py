"""ci-modelcache.pyz runs on every supported Python, from itself or unpacked, whole or not at all, and leaves nothing where it must not."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from attrs import evolve, frozen

from ci_modelcache.demo.hub import LoopbackHub
from tests.parts.servers import ADMIN, BUCKET, REGION, S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
INSIDE = ROOT / ".ci" / "pyz"
VERSION = f"ci-modelcache {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n"
REF = "org/tiny@main"

# Building needs a package index, and this may be the first to ask it.
pytestmark = pytest.mark.timeout(400)


def _pythons(minors: range) -> list[Path]:
    """One Python 3 of each of the *minors* that this machine has, that of the tests first where it is one of them."""
    found = {sys.version_info.minor: Path(sys.executable)} if sys.version_info.minor in minors else {}
    for minor in minors:
        name = f"python3.{minor}"
        for folder in os.get_exec_path():
            # A shim of pyenv exists for each version, and works for the chosen ones only.
            versions = sorted((Path(folder).parent / "versions").glob(f"3.{minor}*/bin/{name}"))
            file = versions[-1] if versions else Path(folder) / name
            if file.exists():
                found.setdefault(minor, file)
    return list(found.values())


SUPPORTED, TOO_OLD = _pythons(range(11, 16)), _pythons(range(6, 11))


@frozen
class Program:
    """The single *file*, started by *python* with *environ* alone; ``-I`` and ``-S`` hide whatever else is installed."""

    file: Path
    environ: dict[str, str]
    python: Path = Path(sys.executable)

    @property
    def versions(self) -> Path:
        """Where what is unpacked belongs."""
        return Path(self.environ["HOME"], ".cache", "ci-modelcache", "program")

    @property
    def unpacked(self) -> list[Path]:
        return list(self.versions.iterdir()) if self.versions.is_dir() else []

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [self.python, "-I", "-S", self.file, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def ended(self, *arguments: str | Path) -> tuple[int, str, str]:
        """The exit code and what was printed on both streams."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=380)
            return process.returncode, out, err

    def run(self, *arguments: str | Path) -> str:
        """What it prints; it must succeed."""
        code, out, err = self.ended(*arguments)
        assert code == 0, f"{shlex.join(map(str, arguments))}: {code}\n{out}\n{err}"
        return out


@pytest.fixture
def unpacking(single_file: Path, tmp_path: Path) -> Program:
    """It unpacks itself, as the machine of these tests may be a container, and a CI job says that it is none in the making."""
    (tmp_path / "home").mkdir()
    environ = {"HOME": str(tmp_path / "home"), "PATH": os.defpath, "LANG": "C.UTF-8", "CI": "true"}
    return Program(single_file, environ)


@pytest.fixture
def direct(unpacking: Program) -> Program:
    """It runs from the file, as no folder can be made where it would unpack itself."""
    unpacking.versions.parent.mkdir(parents=True)
    unpacking.versions.write_text("no folder")
    return unpacking


@pytest.fixture(params=["direct", "unpacking"])
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "weights" / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    return folder


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.name)
def test_it_restores_from_a_folder_on_every_python(python: Path, program: Program, model: Path, tmp_path: Path) -> None:
    program, store, target = evolve(program, python=python), tmp_path / "store", tmp_path / "restored"
    assert program.run("--version") == VERSION
    program.run("save", model, REF, "--store", store)
    program.run("restore", REF, "--store", store, "--offline", "--to", target)
    assert _files(target) == _files(model)
    assert len(program.unpacked) == (not program.versions.is_file())


def test_it_speaks_s3(program: Program, moto_server: S3Server, model: Path, tmp_path: Path) -> None:
    """botocore reads its data from a folder; inside a zip that is none."""
    access_key, secret = ADMIN
    program.environ.update(
        {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CI_MODELCACHE_STORE": f"s3://{BUCKET}/single-file/{tmp_path.name}",
            "CI_MODELCACHE_ENDPOINT_URL": moto_server.endpoint,
        }
    )
    program.run("save", model, REF)
    program.run("restore", REF, "--offline", "--to", tmp_path / "restored")
    assert _files(tmp_path / "restored") == _files(model)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_hub(authority: trustme.CA) -> Iterator[LoopbackHub]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with LoopbackHub(tls=context) as hub:
        hub.add_repo("org/tiny", {"main": {"config.json": b"{}"}})
        yield hub


def test_it_verifies_certificates_and_takes_a_bundle(
    program: Program, authority: trustme.CA, tls_hub: LoopbackHub, tmp_path: Path
) -> None:
    restore = ("restore", REF, "--endpoint", tls_hub.url, "--store", tmp_path / "store", "--to", tmp_path / "restored")
    code, _, err = program.ended(*restore)
    assert (code, "the certificate cannot be verified" in err) == (2, True), err
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    program.environ["CI_MODELCACHE_CA_BUNDLE"] = str(tmp_path / "ca.pem")
    program.run(*restore)
    assert (tmp_path / "restored" / "config.json").read_text() == "{}"


def _within(program: Program, code: str) -> str:
    """What *code* prints, which begins like the program when it runs from the file."""
    begin = (
        f"import sys; sys.path.insert(0, {str(program.file)!r}); sys.dont_write_bytecode = True\n"
        f"from pathlib import Path; from ci_modelcache_pyz.zipped import import_from; import_from(Path(sys.path[0]))\n"
    )
    command = [str(program.python), "-I", "-S", "-c", begin + code]
    done = subprocess.run(command, env=program.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.name)
def test_the_authorities_inside_are_those_that_requests_and_botocore_trust(python: Path, direct: Program) -> None:
    code = """
import certifi, ssl, tempfile, requests.certs, botocore.httpsession
tempfile.tempdir = "/nowhere"
trusted = ssl.create_default_context(cafile=certifi.where()).get_ca_certs()
print(len(trusted), certifi.contents().count("BEGIN CERTIFICATE"))
print(len({certifi.where(), requests.certs.where(), botocore.httpsession.get_cert_path(True)}))
"""
    (count, expected), same = (line.split() for line in _within(evolve(direct, python=python), code).splitlines())
    assert (count, same) == (expected, ["1"])
    assert int(count) > 100


def test_every_module_can_be_imported_from_it(direct: Program) -> None:
    """What was left out is not missed; a part that needs an extra says so."""
    code = """
import importlib, pkgutil, ci_modelcache
import botocore.session, rich.console, rich.markup, rich.progress, rich.table, rich.text
for each in pkgutil.walk_packages(ci_modelcache.__path__, "ci_modelcache."):
    try:
        importlib.import_module(each.name)
    except ModuleNotFoundError as error:
        print(error.name.partition(".")[0])
assert ci_modelcache.__file__.startswith(sys.path[0])
client = botocore.session.get_session().create_client("sts", region_name="eu-central-1")
for service in ("s3", "sso", "sso-oidc", "signin"):
    botocore.session.get_session().create_client(service, region_name="eu-central-1")
"""
    assert set(_within(direct, code).split()) <= {"cryptography", "docker", "keyring", "matplotlib", "numpy"}


def test_it_is_unpacked_once_and_then_found_compiled(unpacking: Program) -> None:
    unpacking.run("--version")
    (folder,) = unpacking.unpacked
    made = folder.stat()
    assert list(folder.glob("ci_modelcache/cli/__pycache__/main.*.pyc"))
    unpacking.run("--version")
    assert unpacking.unpacked == [folder]
    assert (folder.stat().st_ino, folder.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_who_wants_no_bytecode_gets_none(unpacking: Program) -> None:
    unpacking.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    unpacking.run("--version")
    (folder,) = unpacking.unpacked
    assert list(folder.rglob("__pycache__")) == []


def test_many_that_start_at_once_unpack_it_once(unpacking: Program) -> None:
    processes = [unpacking.start("--version") for _ in range(6)]
    assert {(process.communicate(timeout=300), process.returncode) for process in processes} == {((VERSION, ""), 0)}
    assert [len(folder.name) for folder in unpacking.unpacked] == [64]


def test_a_run_that_was_killed_while_it_unpacked_harms_no_other(unpacking: Program) -> None:
    process = unpacking.start("--version")
    end = time.monotonic() + 60
    while not any(folder.name.startswith(".") for folder in unpacking.unpacked):
        assert time.monotonic() < end
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = unpacking.unpacked
    assert unpacking.run("--version") == VERSION
    (whole,) = {*unpacking.unpacked} - {left}

    # Long afterwards another version comes.
    for folder, age in ((left, 31), (whole, 29)):
        folder.chmod(0o700)
        os.utime(folder, (time.time() - age * 86400,) * 2)
    other = whole.with_name("a" * 64)
    whole.rename(other)
    assert unpacking.run("--version") == VERSION
    assert set(unpacking.unpacked) == {whole, other}


def test_a_version_that_is_still_used_does_not_grow_old(unpacking: Program) -> None:
    unpacking.run("--version")
    (folder,) = unpacking.unpacked
    os.utime(folder, (time.time() - 29 * 86400,) * 2)
    unpacking.run("--version")
    assert time.time() - folder.stat().st_mtime < 3600


@pytest.mark.parametrize("trap", ["open to others", "a link"])
def test_a_folder_that_another_may_have_filled_is_not_run(unpacking: Program, trap: str, tmp_path: Path) -> None:
    unpacking.run("--version")
    (folder,) = unpacking.unpacked
    (folder / "ci_modelcache" / "cli" / "main.py").write_text("def main(): print('trapped')")
    assert unpacking.run("--version") == "trapped\n"
    if trap == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.chmod(0o777)
    assert unpacking.run("--version") == VERSION


def test_what_runs_from_the_file_writes_nothing(direct: Program) -> None:
    before = sorted(Path(direct.environ["HOME"]).rglob("*"))
    direct.run("--help")
    direct.run("--version")
    assert sorted(Path(direct.environ["HOME"]).rglob("*")) == before


@pytest.mark.parametrize("home", ["", "relative", "/proc", "/dev/null"])
def test_a_home_that_is_none_is_no_obstacle(unpacking: Program, home: str) -> None:
    unpacking.environ["HOME"] = home
    assert unpacking.run("--version") == VERSION


@pytest.mark.parametrize("python", SUPPORTED, ids=lambda path: path.name)
def test_a_file_that_was_cut_off_is_not_run(python: Path, program: Program, tmp_path: Path) -> None:
    content = program.file.read_bytes()
    cut = tmp_path / "cut.pyz"
    for length in (600, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:length])
        code, out, err = evolve(program, file=cut, python=python).ended("--version")
        assert (code, out) == (1, "")
        assert "has a damaged file: copy or download it again" in err
    assert program.unpacked == [] or program.versions.is_file()


def test_a_file_with_a_wrong_byte_is_not_run(program: Program, tmp_path: Path) -> None:
    content = bytearray(program.file.read_bytes())
    bad = tmp_path / "bad.pyz"
    for position in (content.index(b"sha256 ") + 8, content.index(b"sha256 ") + 70, len(content) // 2):
        changed = content.copy()
        changed[position] ^= 1
        bad.write_bytes(changed)
        code, out, err = evolve(program, file=bad).ended("--version")
        assert (code, out) == (13, ""), err
        assert err.startswith(f"error: {bad} is damaged: its SHA-256 is ")
        assert err.endswith("\n  hint: copy or download it again\n")
    assert all(path.name == "program" for path in program.versions.parent.glob("*"))
    assert program.unpacked == [] or program.versions.is_file()


def test_a_python_that_is_too_old_is_told_so_in_one_line(program: Program) -> None:
    """The first lines are for Python 3.6 to read; which old ones a machine has differs, so that one is pretended."""
    ast.parse((INSIDE / "__main__.py").read_text(), feature_version=(3, 6))
    pretend = (
        f"import runpy, sys; sys.version_info = (3, 10, 1); runpy.run_path({str(program.file)!r}, run_name='__main__')"
    )
    commands = [[sys.executable, "-c", pretend], *([str(python), str(program.file)] for python in TOO_OLD)]
    for command in commands:
        done = subprocess.run(command, env=program.environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ci-modelcache needs Python 3.11 or newer, and ")
        assert done.stderr.count("\n") == 1


def test_as_a_program_it_tells_python_to_write_nothing_beside_its_library(single_file: Path, tmp_path: Path) -> None:
    """Images may hold a Python without any __pycache__, which the first import of it would add to their layer."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run([single_file, "ls", "a b"], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-B", str(single_file), "ls", "a b"]


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Wherever and whenever they are, and whatever the one who builds it has set."""
    built = []
    for number in range(2):
        checkout = tmp_path / f"checkout{number}"
        for name in ("ci_modelcache", ".ci/pyz", "actions/requirements.txt", "pyproject.toml", "README.md", "LICENSE"):
            source, target = ROOT if number == 0 else tmp_path / "checkout0", checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
            copy(source / name, target)
            os.utime(target, (number, number))
        file = tmp_path / f"{number}.pyz"
        command = [sys.executable, ".ci/pyz/build.py", str(file)]
        environ = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": ("UTC", "Asia/Tokyo")[number]}
        subprocess.run(command, cwd=checkout, env=environ, umask=(0o022, 0o077)[number], timeout=190, check=True)
        built.append(file.read_bytes())
    assert built[0] == built[1]
