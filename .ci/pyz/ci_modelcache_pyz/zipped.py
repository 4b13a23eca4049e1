"""The only module that imports from the zip, and gives libraries there what they want as files: botocore its data, certifi its authorities."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from zipimport import zipimporter

if TYPE_CHECKING:
    import gzip
    import zipfile
    from collections.abc import Callable
    from types import ModuleType
    from typing import IO


def import_from(file: Path) -> None:
    """Let what is imported from the zip *file*, an absolute path, find in it all that it needs."""
    mends = {"botocore.loaders": _Data(file).give, "certifi": _give_authorities}

    def importer(path: str) -> _Importer:
        if path != str(file) and not path.startswith(f"{file}/"):
            raise ImportError(path)
        return _Importer(path, mends)

    sys.path_hooks.insert(0, importer)
    sys.path_importer_cache.pop(str(file), None)


class _Importer(zipimporter):
    """Calls the one of *mends* that belongs to a module as soon as that was executed; and compiles each module once, not twice."""

    def __init__(self, path: str, mends: dict[str, Callable[[Any], None]]) -> None:
        super().__init__(path)
        self._mends = mends

    def get_filename(self, fullname: str) -> str:
        # zipimporter compiles a module to know it, and forgets what it compiled. Nothing here was compiled before.
        name = fullname.rpartition(".")[2]
        return f"{self.archive}/{self.prefix}{name}" + ("/__init__.py" if self.is_package(fullname) else ".py")

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.__name__ in self._mends:
            self._mends[module.__name__](module)


class _Data:
    """What `botocore.loaders` asks of folders and files, where those inside the zip *file* exist too."""

    def __init__(self, file: Path) -> None:
        self._file, self._inside = file, f"{file}/"

    def give(self, loaders: Any) -> None:  # noqa: ANN401  # a module
        import zipfile  # noqa: PLC0415  # 20 ms that --help does not need

        # Open for as long as this process lives.
        self._root = zipfile.Path(str(self._file))
        path = SimpleNamespace(**{**vars(os.path), "isfile": self._is_file, "isdir": self._is_dir})
        loaders.os = SimpleNamespace(**{**vars(os), "path": path, "listdir": self._names})
        methods = {".json": self._open, ".json.gz": self._open_compressed}
        if set(methods) != set(loaders._JSON_OPEN_METHODS):  # noqa: SLF001  # there is no other way in
            msg = f"botocore has data of other kinds than expected: {sorted(loaders._JSON_OPEN_METHODS)}"  # noqa: SLF001
            raise RuntimeError(msg)  # for the tests, after a new botocore
        loaders._JSON_OPEN_METHODS = methods  # noqa: SLF001  # as above

    def _at(self, path: str) -> Path | zipfile.Path:
        return self._root / path.removeprefix(self._inside) if path.startswith(self._inside) else Path(path)

    # In a home folder that belongs to somebody else, as is usual in containers, nothing is there for `os.path`; for a Path that is an error.

    def _is_file(self, path: str) -> bool:
        return self._at(path).is_file() if path.startswith(self._inside) else os.path.isfile(path)  # noqa: PTH113  # as above

    def _is_dir(self, path: str) -> bool:
        return self._at(path).is_dir() if path.startswith(self._inside) else os.path.isdir(path)  # noqa: PTH112  # as above

    def _names(self, path: str) -> list[str]:
        return [each.name for each in self._at(path).iterdir()]

    def _open(self, path: str, mode: str) -> IO[bytes]:
        return self._at(path).open(mode)  # type: ignore[call-overload]  # it is "rb"

    def _open_compressed(self, path: str, mode: str) -> gzip.GzipFile:
        import gzip  # noqa: PLC0415  # botocore has it already

        return gzip.GzipFile(fileobj=self._open(path, mode))


def _give_authorities(certifi: Any) -> None:  # noqa: ANN401  # a module
    """Out of a zip certifi makes a temporary file, and requests another; OpenSSL reads one in memory as well, which leaves nothing."""
    kept: list[tuple[str, IO[bytes]]] = []

    def where() -> str:
        if not kept:
            kept.append(_file_of(certifi.contents().encode("ascii")))
        return kept[0][0]

    certifi.where = certifi.core.where = where


def _file_of(content: bytes) -> tuple[str, IO[bytes]]:
    """The name of a file with *content*, which is there for as long as what comes with it is open."""
    name, file = _in_memory() or _temporary()
    file.write(content)
    file.flush()
    return name, file


def _in_memory() -> tuple[str, IO[bytes]] | None:
    """What needs no folder; None where the system, or what confines this process, has no such thing."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        number = os.memfd_create("authorities")
    except OSError:
        return None
    name = f"/proc/self/fd/{number}"
    if not Path(name).exists():  # there may be no /proc
        os.close(number)
        return None
    return name, open(number, "w+b")  # noqa: PTH123  # it has no path


def _temporary() -> tuple[str, IO[bytes]]:
    import tempfile  # noqa: PLC0415  # on macOS

    file = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115  # it stays open
    return file.name, cast("IO[bytes]", file)
