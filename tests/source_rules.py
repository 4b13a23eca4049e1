"""
The only module that reads the source as text: the house rules that no linter has, each with code that breaks it.

A rule is a function over one parsed module, the places where its subject is at home, each with the reason, and
examples. `tests/test_architecture.py` applies the rules to the package, and to the examples, so that none is blind.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

from attrs import field, frozen

MODULE_LINES = 350
FUNCTION_LINES = 45

Offences = Iterator[tuple[int, str]]
"""Line and what is wrong there."""


@frozen(slots=False)
class Module:
    """One Python file; *path* is relative to the checkout, with slashes."""

    path: str
    text: str

    @classmethod
    def of(cls, file: Path, root: Path) -> Self:
        return cls(file.relative_to(root).as_posix(), file.read_text())

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def imports(self) -> tuple[tuple[int, str], ...]:
        """Line and full name of everything imported, also inside functions and under TYPE_CHECKING."""
        return tuple((line, full) for line, _, full in self._bindings())

    @cached_property
    def names(self) -> tuple[tuple[int, str], ...]:
        """
        Line and full name of everything imported or used: ``from time import sleep as nap; nap()`` uses ``time.sleep``.
        """
        meaning = {name: full for _, name, full in self._bindings()}
        found = list(self.imports)
        for node in ast.walk(self.tree):
            if isinstance(node, (ast.Name, ast.Attribute)) and (name := _dotted(node)):
                head, dot, rest = name.partition(".")
                found.append((node.lineno, meaning.get(head, head) + dot + rest))
        return tuple(found)

    def _bindings(self) -> Iterator[tuple[int, str, str]]:
        """Line, bound name and full name of every import."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    yield node.lineno, each.asname or each.name, each.name
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for each in node.names:
                    yield node.lineno, each.asname or each.name, f"{node.module}.{each.name}"


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` for that expression; only ``.c`` when it begins with something else than a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


@frozen
class Rule:
    """
    *demand* is the rule; *check* yields where a module breaks it.

    *homes* are the files and folders (with a slash at their end) where the subject belongs, and why.
    *bad* are sources that break the rule, *good* ones that only look so.
    """

    name: str
    demand: str
    check: Callable[[Module], Offences]
    bad: tuple[str, ...]
    good: tuple[str, ...] = ()
    homes: Mapping[str, str] = field(factory=dict)

    def is_home(self, path: str) -> bool:
        return any(path == home or (home.endswith("/") and path.startswith(home)) for home in self.homes)

    def broken_by(self, module: Module) -> list[str]:
        """Every place where *module* breaks the rule, as ``path:line: what``."""
        if self.is_home(module.path):
            return []
        return [f"{module.path}:{line}: {what}" for line, what in sorted(set(self.check(module)))]


def _using(*forbidden: str) -> Callable[[Module], Offences]:
    """Forbids the full names *forbidden*, everything below them and, for ``.name``, every attribute of that name."""

    def check(module: Module) -> Offences:
        for line, name in module.names:
            for each in forbidden:
                if name == each or name.startswith(f"{each}.") or (each.startswith(".") and name.endswith(each)):
                    yield line, name

    return check


def _bare_except(module: Module) -> Offences:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "except without a type"


_TOO_BROAD = {"Exception", "BaseException", "ModelCacheError", "Unavailable", "AccessDenied", "IntegrityError"}


def _swallowed(module: Module) -> Offences:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and all(_does_nothing(each) for each in node.body):
            yield node.lineno, "an exception is caught and nothing is done"
        if isinstance(node, ast.Call) and _dotted(node.func).rpartition(".")[2] == "suppress":
            for each in node.args:
                if (name := _dotted(each).rpartition(".")[2]) in _TOO_BROAD:
                    yield node.lineno, f"suppress({name})"


def _does_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _boolean_traps(module: Module) -> Offences:
    for function in _functions(module):
        given = function.args.posonlyargs + function.args.args
        without = [None] * (len(given) - len(function.args.defaults))
        pairs = zip(given, [*without, *function.args.defaults], strict=True)
        flags = [each.arg for each, default in pairs if _is_boolean(each.annotation, default)]
        if len(flags) > 1:
            yield function.lineno, f"{function.name}: positional booleans {', '.join(flags)}"


def _is_boolean(annotation: ast.expr | None, default: ast.expr | None) -> bool:
    typed = annotation is not None and re.search(r"\bbool\b", ast.unparse(annotation)) is not None
    return typed or (isinstance(default, ast.Constant) and isinstance(default.value, bool))


_KEY = re.compile(r"(?:blobs|leaves|manifests|refs|heads|pins|trash|intents|leases|gc|access|scrub)/|modelcache\.json$")


def _keys(module: Module) -> Offences:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _KEY.match(node.value):
            yield node.lineno, f"builds a key: {node.value!r}"


def _long_module(module: Module) -> Offences:
    lines = len(module.text.splitlines())
    if lines > MODULE_LINES:
        yield 1, f"{lines} lines, at most {MODULE_LINES}"


def _long_function(module: Module) -> Offences:
    for function in _functions(module):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        if lines > FUNCTION_LINES:
            yield function.lineno, f"{function.name}: {lines} lines below its docstring, at most {FUNCTION_LINES}"


def _no_docstring(module: Module) -> Offences:
    if module.tree.body and not ast.get_docstring(module.tree):
        yield 1, "no docstring"


_VAGUE_MODULES = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
_VAGUE_CLASS = re.compile(r".*(?:Managers?|Helpers?|Utils?)")


def _vague(module: Module) -> Offences:
    for part in Path(module.path).with_suffix("").parts:
        if part in _VAGUE_MODULES:
            yield 1, f"a module named {part}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and _VAGUE_CLASS.fullmatch(node.name):
            yield node.lineno, f"a class named {node.name}"


_SUPPRESSES = re.compile(r"#\s*(?:noqa|type:\s*ignore|ruff:|flake8:|mypy:|fmt:|isort:|pragma:)", re.IGNORECASE)
_REASONED = re.compile(
    r"# (?:noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*|type: ignore\[[a-z-]+(?:, ?[a-z-]+)*\]|fmt: skip)  # (?!noqa|type:)\S.*"
)


def _unexplained(module: Module) -> Offences:
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type != tokenize.COMMENT or not _SUPPRESSES.search(token.string):
            continue
        both = re.split(r"(?<=\S)  (?=# (?:noqa|type:))", token.string)
        if not all(_REASONED.fullmatch(each) for each in both):
            yield token.start[0], token.string


_NOQA = "# no" + "qa"  # taken apart, or this file would break the rule and the linters would obey it
_IGNORE = "# type: " + "ignore"

PACKAGE_RULES = (
    Rule(
        "sleep",
        "Only the retry policy sleeps.",
        _using("time.sleep", "asyncio.sleep", ".sleep"),
        bad=(
            "import time\ntime.sleep(1)",
            "import time as clock\nclock.sleep(1)",
            "from time import sleep as nap",
            "class Policy:\n    def again(self):\n        self.sleep(1)",
            "def pause(sleep=__import__('time').sleep): ...",
        ),
        good=("import time\ntime.monotonic()", "asleep()"),
        homes={"ci_modelcache/transfer/retry.py": "the one place where attempts are counted"},
    ),
    Rule(
        "environment",
        "Only the settings read the environment.",
        _using("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"),
        bad=(
            "import os\nos.environ['HOME']",
            "import os\nos.environ.get('HOME')",
            "import os as system\nsystem.getenv('HOME')",
            "from os import environ",
        ),
        good=("def load(environ):\n    return environ['HOME']",),
        homes={"ci_modelcache/config.py": "finds where every setting comes from"},
    ),
    Rule(
        "threads",
        "Threads are started by the bounded pool alone.",
        _using(
            "threading.Thread",
            "threading.Timer",
            "_thread",
            "concurrent.futures",
            "multiprocessing",
            "asyncio",
            "socketserver.ThreadingMixIn",
            "http.server.ThreadingHTTPServer",
        ),
        bad=(
            "import threading\nthreading.Thread(target=print).start()",
            "from threading import Thread",
            "from concurrent.futures import ThreadPoolExecutor",
            "import concurrent.futures",
            "async def f():\n    import asyncio",
        ),
        good=("import threading\nlock = threading.Lock()",),
        homes={
            "ci_modelcache/transfer/parallel.py": "the pool",
            "ci_modelcache/demo/hub.py": "a server, which answers several clients at a time",
        },
    ),
    Rule(
        "wire",
        "HTTP is spoken by `requests` in sources/ alone, so that one place guards tokens, TLS and proxies.",
        _using("http.client", "urllib.request", "socket.socket", "socket.create_connection", "ftplib"),
        bad=(
            "import urllib.request",
            "from urllib import request",
            "from http.client import HTTPConnection",
            "import socket\nsocket.create_connection(('h', 1))",
        ),
        good=("from urllib.parse import quote", "from http import HTTPStatus", "import socket\nsocket.gethostname()"),
        homes={
            "ci_modelcache/sources/": "translates what requests lets through of http.client",
            "ci_modelcache/demo/hub.py": "the server's side of it",
        },
    ),
    Rule(
        "output",
        "What is printed is decided by the command line.",
        _using("print", "sys.stdout", "sys.stderr"),
        bad=("print('done')", "import sys\nsys.stderr.write('x')", "from sys import stdout"),
        good=("fingerprint(1)", "self.print('x')"),
        homes={"ci_modelcache/cli/": "its subject"},
    ),
    Rule(
        "dynamic import",
        "Imports are visible to the layer contracts.",
        _using("importlib", "__import__", "runpy"),
        bad=("import importlib\nimportlib.import_module('boto3')", "__import__('boto3')"),
        good=("def late():\n    import json\n",),
        homes={
            "ci_modelcache/cli/": "commands are imported when used, and only from cli/",
            "ci_modelcache/__init__.py": "the public names are imported when used, and the same ones for type checkers",
            "ci_modelcache/transfer/bytegroup.py": "asks whether a package is installed without the half second that importing it takes",
        },
    ),
    Rule(
        "bare except",
        "Every except names what it catches.",
        _bare_except,
        bad=("try:\n    f()\nexcept:\n    raise",),
        good=("try:\n    f()\nexcept OSError:\n    raise",),
    ),
    Rule(
        "swallowed exception",
        "No failure disappears.",
        _swallowed,
        bad=(
            "try:\n    f()\nexcept OSError:\n    pass",
            "try:\n    f()\nexcept OSError:\n    ...",
            "from contextlib import suppress\nwith suppress(Exception):\n    f()",
            "import contextlib\nfrom ci_modelcache import errors\nwith contextlib.suppress(errors.Unavailable):\n    f()",
        ),
        good=(
            "try:\n    f()\nexcept OSError:\n    g()",
            "from contextlib import suppress\nwith suppress(FileNotFoundError):\n    f()",
        ),
    ),
    Rule(
        "boolean trap",
        "Nobody has to guess what f(True, False) means.",
        _boolean_traps,
        bad=(
            "def f(a: bool, b: bool): ...",
            "def f(path, deep=True, follow=False): ...",
            "class C:\n    def f(self, a: bool | None, b: 'bool' = False): ...",
        ),
        good=(
            "def f(a: bool, *, b: bool): ...",
            "def f(*, a: bool, b: bool): ...",
            "def f(a: int = 1, b: str = ''): ...",
        ),
    ),
    Rule(
        "keys",
        "Nobody above the cache sees a key.",
        _keys,
        bad=(
            "key = 'blobs/sha256/ab'",
            "key = f'manifests/sha256/{x}'",
            "marker = 'modelcache.json'",
            "PREFIX = 'intents/'",
        ),
        good=("key = 'my-blobs/x'", "x = 'references'", "def f():\n    '''Writes blobs/x.'''"),
        homes={
            "ci_modelcache/cache/keys.py": "its subject",
            "ci_modelcache/layouts/hub_cache.py": "the folders of the Hub's own cache, which has the same words",
            "ci_modelcache/demo/": "git's names of branches and tags, as a Hub shows them",
            "ci_modelcache/model/oci_archive.py": "the folder of an OCI image layout, which has the same word",
        },
    ),
    Rule(
        "module length",
        f"A module fits into one reading: {MODULE_LINES} lines.",
        _long_module,
        bad=("x = 1\n" * (MODULE_LINES + 1),),
        good=("x = 1\n" * MODULE_LINES,),
    ),
    Rule(
        "function length",
        f"What a function does fits onto a screen: {FUNCTION_LINES} lines below its docstring.",
        _long_function,
        bad=(
            "def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1),
            "class C:\n  async def f(self):\n    'Doc.'\n" + "    x = 1\n" * (FUNCTION_LINES + 1),
        ),
        good=("def f():\n    'Doc.'\n" + "    x = 1\n" * FUNCTION_LINES, "def f():\n    'Doc.'"),
    ),
    Rule(
        "docstring",
        "A module says what it alone knows.",
        _no_docstring,
        bad=("x = 1",),
        good=("", "'''Only.'''\nx = 1"),
    ),
    Rule(
        "vague name",
        "A name says what a thing does.",
        _vague,
        bad=("class StoreManager: ...", "class PathHelper: ...", "class HttpUtils: ..."),
        good=("class Store: ...", "class Utilization: ..."),
    ),
)
"""Rules for the modules of the package."""

EVERYWHERE = (
    Rule(
        "suppression",
        "Whoever silences a tool says which finding, and why.",
        _unexplained,
        bad=(
            f"x = 1  {_NOQA}",
            f"x = 1  {_NOQA}: E501",
            f"x = 1  {_NOQA}  # because",
            f"x = 1  {_NOQA}: E501 # one space",
            f"x = 1  {_IGNORE}",
            f"x = 1  {_IGNORE}  # because",
            f"x = 1  {_IGNORE}[attr-defined]",
            f"x = 1  {_IGNORE}[arg-type]  {_NOQA}: E501  # one reason for two",
            "# ruff: " + "noqa",
            "# fmt: " + "off",
            "x = 1  # fmt: " + "skip",
        ),
        good=(
            f"x = 1  {_NOQA}: E501  # a URL",
            f"x = 1  {_NOQA}: E501, S105  # a URL with a password",
            f"x = 1  {_IGNORE}[attr-defined]  # set by the metaclass",
            f"x = 1  {_IGNORE}[attr-defined]  # no stubs  {_NOQA}: E501  # a URL",
            "x = 1  # fmt: " + "skip  # a table",
            f"x = '{_NOQA}'",
        ),
    ),
)
"""Rules for every Python file of the checkout."""

TEST_RULES = (
    Rule(
        "skip",
        "A test that does not run proves nothing.",
        _using(
            "pytest.skip",
            "pytest.xfail",
            "pytest.importorskip",
            "pytest.mark.skip",
            "pytest.mark.skipif",
            "pytest.mark.xfail",
            "unittest.skip",
        ),
        bad=(
            "import pytest\npytest.skip('no server')",
            "import pytest as p\n@p.mark.skipif(True, reason='')\ndef test(): ...",
            "from pytest import importorskip",
        ),
        good=("import pytest\npytest.fail('no server')",),
    ),
    Rule(
        "mock",
        "A fake implements the protocol; a mock agrees with everything.",
        _using("unittest.mock", "mock"),
        bad=("from unittest import mock", "from unittest.mock import patch", "import unittest.mock"),
        good=("import unittest",),
    ),
)
"""Rules for the tests."""
