# ruff: noqa: INP001  # a script, run by its path: python .ci/pyz/build.py
"""
Builds ci-modelcache.pyz, the program and all that it needs in one file: ``python .ci/pyz/build.py build/ci-modelcache.pyz``.

The same bytes come of the same files, on every run: versions and hashes are those of actions/requirements.txt, names are sorted,
and times are fixed. It stops when a dependency is not pure Python.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PINS = ROOT / "actions" / "requirements.txt"

# Any Python from 3.11 on and any system: what is compiled is refused.
PURE = ["--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none", "--python-version=3.11"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

HEADER = b"""#!/bin/sh
exec python3 -B "$0" "$@" # a Python that shows this line has a damaged file: copy or download it again
# sha256 %s
# a Python that shows this line has a damaged file: copy or download it again """
"""
How the file begins: the zip follows in the same line, so that Python shows that one when it finds no zip. The third line says the
SHA-256 of what is below it. The shell is there for -B, which ``env`` cannot pass on everywhere: what Python imports first it would
otherwise write into an image, as __pycache__, before any line of ours.
"""

SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}
"""Of which botocore's data is needed: the store, and all that credentials come from."""
UNUSED = re.compile(
    r"bin/"  # programs of the dependencies, for which nobody asked
    r"|.*/__pycache__/|.*\.pyi$"
    r"|.*\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|sboms/)"  # how and where this was built
    r"|(pygments|markdown_it(_py)?|mdurl)(-[^/]*)?/"  # for source and Markdown in colour, which rich is never asked for here
    r"|certifi/tests/|dateutil/zoneinfo/.*\.tar\.gz$"
    rf"|botocore/data/(?!({'|'.join(sorted(SERVICES))})/)[^/]+/"
)


def main() -> None:
    """Build the file that the command line names."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        files = _program(scratch)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            _write(unfinished, files)
            unfinished.chmod(0o755)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.1f} MB, {len(files)} files\n")


def _program(scratch: Path) -> dict[str, Path]:
    """Every file of the zip by its name there; the packages are installed below *scratch*."""
    wheels, installed = scratch / "wheels", scratch / "installed"
    _pip("download", *PURE, "--require-hashes", "--requirement", PINS, "--dest", wheels, environ=os.environ)
    # From those wheels and nowhere else, the one that builds the project too; pip takes what the project requires.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    alone["PIP_CONFIG_FILE"] = os.devnull
    here = ("--no-index", "--find-links", wheels)
    _pip("install", *PURE, *here, "--no-compile", "--target", installed, ROOT, environ=alone)
    names = {each.relative_to(installed).as_posix(): each for each in installed.rglob("*") if each.is_file()}
    files = {name: path for name, path in names.items() if not UNUSED.match(name)}
    ours = [HERE / "__main__.py", *(HERE / "ci_modelcache_pyz").glob("*.py")]
    return files | {each.relative_to(HERE).as_posix(): each for each in ours}


def _pip(*arguments: str | Path, environ: Mapping[str, str]) -> None:
    subprocess.run([*PIP, *map(str, arguments)], env=environ, check=True)  # noqa: S603  # our own Python, fixed arguments


def _write(target: Path, files: dict[str, Path]) -> None:
    """A zip of *files*, below the header that says its SHA-256."""
    with target.open("w+b") as content:
        content.write(HEADER % bytes(64))
        # Appended, so that the zip knows where it begins.
        with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name)  # of 1980, as all are
                entry.create_system = 3  # Unix, on any system
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, files[name].read_bytes())
        content.seek(HEADER.index(b"%s") + 64 + 1)
        digest = hashlib.sha256(content.read()).hexdigest()
        content.seek(0)
        content.write(HEADER % digest.encode())


if __name__ == "__main__":
    main()
