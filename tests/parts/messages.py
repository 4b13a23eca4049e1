"""The only module that reads the package for its messages: every text that a user can be shown, with its exit codes."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

import ci_modelcache
from ci_modelcache import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(inspect.getfile(ci_modelcache)).parent
GAP = "…"
_ENOUGH = 9
"""Letters that a message must have beside its gaps, or it could be anything."""


@frozen
class Message:
    """A *text* in *module*, with a `GAP` for whatever is filled in; *exit_codes* of the failures that are made with it."""

    module: str
    line: int
    text: str
    exit_codes: frozenset[int]

    def could_be(self, shown: str) -> bool:
        """Whether *shown*, which may have gaps of its own, is this text filled in."""
        parts = self.text.split(GAP)
        if sum(map(str.isalpha, "".join(parts))) < _ENOUGH:
            return False
        return re.fullmatch(".*".join(map(re.escape, parts)), shown) is not None


@functools.cache
def messages() -> tuple[Message, ...]:
    """All texts of the package that are not docstrings."""
    return tuple(
        message
        for file in sorted(PACKAGE.rglob("*.py"))
        for message in _messages(ast.parse(file.read_text()), file.relative_to(PACKAGE).as_posix())
    )


def _messages(tree: ast.Module, module: str) -> Iterator[Message]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    codes = _codes(tree)
    for node in ast.walk(tree):
        if id(node) in docstrings | inside or not isinstance(node, (ast.JoinedStr, ast.Constant)):
            continue
        if isinstance(node, ast.Constant) and not isinstance(node.value, str):
            continue
        yield Message(module, node.lineno, _text(node), frozenset(codes.get(id(node), set())))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    # The arguments of logging are gaps too.
    return re.sub(r"%(?:\.\d)?[sdf]", GAP, str(node.value)) if isinstance(node, ast.Constant) else GAP


def _codes(tree: ast.Module) -> dict[int, set[int]]:
    """The exit codes of each text: of the classes that are called with it, with a variable that holds it, or by a function that gets it."""
    found: dict[int, set[int]] = {}
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for scope in ast.walk(tree):
        if not isinstance(scope, (ast.FunctionDef, ast.ClassDef)):
            continue
        texts: dict[str, list[ast.expr]] = {}
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                texts.setdefault(node.targets[0].id, []).append(node.value)
        for call in (node for node in ast.walk(scope) if isinstance(node, ast.Call)):
            for position, argument in enumerate(call.args):
                codes = _uses(call, position, scope, functions)
                given = texts.get(argument.id, []) if isinstance(argument, ast.Name) else [argument]
                for text in (part for each in given for part in ast.walk(each)):
                    found.setdefault(id(text), set()).update(codes)
    return found


def _uses(call: ast.Call, position: int, scope: ast.AST, functions: dict[str, ast.FunctionDef]) -> set[int]:
    """The exit codes of what *call* makes of its argument at *position*, by itself or in a function of this module."""
    if position == 0 and (code := _code(call, scope)):
        return {code}
    function = functions.get(ast.unparse(call.func))
    if function is None or position >= len(function.args.args):
        return set()
    name = function.args.args[position].arg
    inner = (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args)
    return {_code(each, function) for each in inner if ast.unparse(each.args[0]) == name} - {0}


def _code(call: ast.Call, scope: ast.AST) -> int:
    """The exit code of the error that *call* makes; 0 when it makes none."""
    name = ast.unparse(call.func).rpartition(".")[2]
    if name == "__init__" and isinstance(scope, ast.ClassDef):
        name = scope.name
    kind = getattr(errors, name, None)
    return kind.exit_code if isinstance(kind, type) and issubclass(kind, errors.ModelCacheError) else 0
