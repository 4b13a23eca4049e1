"""
The only module that writes docs/reference.md: its tables, from the code that they describe.

The prose between them is written by hand; ``.venv/bin/python -m tests.parts.reference`` renews what stands between
``<!-- generated: ... -->`` and ``<!-- end -->``, and tests/test_docs.py compares.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import attrs
import click

from ci_modelcache import errors
from ci_modelcache.cli.command import Command, SettingOption
from ci_modelcache.cli.groups import command_in
from ci_modelcache.cli.main import COMMANDS, PROGRAM
from ci_modelcache.demo.demonstrate import DemoReport
from ci_modelcache.docker.client import BuildReport
from ci_modelcache.docker.context import ContextReport
from ci_modelcache.docker.image_inspect import ImagesReport
from ci_modelcache.docker.image_verify import ImageVerifyReport
from ci_modelcache.docker.streamed import StreamReport
from ci_modelcache.kinds import SWITCH
from ci_modelcache.model.digest import Digest
from ci_modelcache.model.mirror import Mirror
from ci_modelcache.model.project import ProjectModel
from ci_modelcache.settings import OPTIONS, SETTINGS, Alias, Flag, Setting, variable
from ci_modelcache.verbs.auth import AuthReport
from ci_modelcache.verbs.doctor import DoctorReport
from ci_modelcache.verbs.du import UseReport
from ci_modelcache.verbs.export import ExportReport
from ci_modelcache.verbs.fetch import FetchReport
from ci_modelcache.verbs.figures import StatsReport
from ci_modelcache.verbs.import_archive import ImportReport
from ci_modelcache.verbs.inspect import SnapshotInfo, StoredSnapshot
from ci_modelcache.verbs.keep import DroppedSnapshot, PinnedSnapshot
from ci_modelcache.verbs.lock import LockReport
from ci_modelcache.verbs.lookup import LookupReport
from ci_modelcache.verbs.mirrors import MirrorsReport
from ci_modelcache.verbs.mirrors_check import CheckReport
from ci_modelcache.verbs.mirrors_figures import BenchReport
from ci_modelcache.verbs.presign import PresignReport
from ci_modelcache.verbs.prune import PruneReport
from ci_modelcache.verbs.replicate import ReplicateReport
from ci_modelcache.verbs.restore import RestoreReport
from ci_modelcache.verbs.save import SaveReport
from ci_modelcache.verbs.split import StagedReport
from ci_modelcache.verbs.verify import VerifyReport
from ci_modelcache.verbs.warm import WarmReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FILE = Path(__file__).parents[2] / "docs" / "reference.md"
RENEW = ".venv/bin/python -m tests.parts.reference"
"""The command that renews the file, in the root of the checkout."""

_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def code(text: str) -> str:
    """*text* as code, also within a table."""
    return f"`{text}`".replace("|", r"\|")


def _markdown(docstring: str) -> str:
    """One paragraph of a docstring: ``x`` and *x* become code."""
    text = " ".join(docstring.split())
    return re.sub(r"``(.+?)``|(?<!\*)\*(\w+)\*(?!\*)", lambda match: f"`{match[1] or match[2]}`", text)


# --- commands


def names_of(table: Iterable[str], group: str = "") -> Iterator[str]:
    """Every name of *table* by which something is called: of a group those of its commands, as ``docker build``."""
    for name in table:
        found = command_in(f"ci_modelcache.cli.{group}{name}")
        if isinstance(found, click.Group):
            inner = found.list_commands(click.Context(found))
            yield from (f"{name} {each}" for each in names_of(inner, f"{group}{name}_"))
        else:
            yield name


NAMES = tuple(names_of(COMMANDS))
"""Every command, by all words that it takes to call it."""


def command_of(name: str) -> Command:
    """The command *name*, one of `NAMES`."""
    command = command_in(f"ci_modelcache.cli.{name.replace(' ', '_')}")
    assert isinstance(command, Command)
    return command


def called(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of the command that a line with these *words* after the program's name calls, and its arguments."""
    long = " ".join(words[:2])
    return (long, words[2:]) if long in NAMES else (words[0], words[1:])


def _flags(option: click.Option) -> str:
    names = ", ".join(option.opts)
    if option.secondary_opts:
        return code(f"{names} / {', '.join(option.secondary_opts)}")
    if option.is_flag or option.count:
        return code(names)
    values = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else option.metavar
    return code(f"{names} {values}")


def _options(command: Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def _common() -> list[str]:
    """Names of the options that every command has."""
    each = [{str(option.name) for option in _options(command_of(name))} for name in NAMES]
    return sorted(set.intersection(*each))


_LITERAL = re.compile(r"\[dataset:\S+\]|\*\*\*|(?<!\S)-{1,2}[a-z-]+|modelcache\.\w+|(?<!\S)\.git\b")


def _prose(text: str) -> str:
    """Text of a help page, with what is typed as code."""
    return _LITERAL.sub(lambda match: f"`{match[0]}`", " ".join(text.split()))


def _paragraphs(command: Command) -> Iterator[str]:
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        yield _prose(paragraph)
        yield ""


def _command(name: str) -> Iterator[str]:
    command, common = command_of(name), _common()
    yield f"### {name}"
    yield ""
    yield from _paragraphs(command)
    pieces = command.collect_usage_pieces(click.Context(command))
    yield f"`{' '.join([PROGRAM, name, *pieces])}`"
    yield ""
    yield "```sh"
    width = max(len(line) for _, line in command.examples)
    for comment, line in command.examples:
        yield f"{line.ljust(width)}  # {comment}"
    yield "```"
    yield ""
    options = [option for option in _options(command) if option.name not in common]
    own = [option for option in options if not isinstance(option, SettingOption)]
    if own:
        yield from table(("option", ""), ((_flags(option), _prose(str(option.help))) for option in own))
        yield ""
    settings = [_flags(option) for option in options if isinstance(option, SettingOption)]
    if settings:
        yield f"Settings: {', '.join(settings)}, and those of every command."
        yield ""


def commands() -> Iterator[str]:
    """Every command."""
    for name in NAMES:
        yield from _command(name)


def common_options() -> Iterator[str]:
    """What every command takes."""
    some = command_of("ls")
    rows = [(_flags(option), _prose(str(option.help))) for option in _options(some) if option.name in _common()]
    rows.append((code("-h, --help"), "Show the command's help and exit."))
    yield from table(("option", ""), rows)


# --- settings

_CACHE = "{cache}", "~/.cache"
_IN_WORDS = {
    "normalize": "`yes` in a container, else `no`",
    "state": "`~/.cache/ci-modelcache`; in the build of an image see below",
    "token": "what `hf auth login` left in `$HF_TOKEN_PATH` or `~/.cache/huggingface/token`",
    "lock-file": "`modelcache.lock` beside modelcache.toml",
}
"""Defaults that depend on more than one place."""


def _default(setting: Setting) -> str:
    if setting.name in _IN_WORDS:
        return _IN_WORDS[setting.name]
    return "-" if setting.default is None else code(setting.default.replace(*_CACHE))


def _users(setting: Setting) -> str:
    """Which commands have the flag of *setting*, when not all do."""
    if setting.flag is Flag.COMMON:
        return ""
    found = [name for name in NAMES if any(_is_for(option, setting) for option in _options(command_of(name)))]
    return f" ({', '.join(found)})"


def _is_for(option: click.Option, setting: Setting) -> bool:
    return isinstance(option, SettingOption) and option.setting is setting


def _flag(setting: Setting) -> str:
    name = setting.option
    return code(f"{name} / --no-{setting.name}" if setting.kind is SWITCH else name) + _users(setting)


def _alias(alias: Alias) -> str:
    if alias.template == "{}":
        return code(alias.variable)
    if "{}" in alias.template:
        return code("$" + alias.template.replace("{}", alias.variable))
    return f"{code(alias.variable)} (means {code(alias.template)})"


def _sources(setting: Setting) -> Iterator[str]:
    """The places where *setting* is looked for, in the order of `Config`."""
    if setting.flag is not Flag.NONE:
        yield _flag(setting)
    yield code(setting.variable)
    yield from map(_alias, setting.aliases)
    if setting.in_file:
        yield "`[[mirrors]]` of the file" if setting.name == "mirrors" else "file"
    if setting.like is not None:
        yield f"the setting {code(setting.like)}"
    yield from map(_alias, setting.ambient)


def settings() -> Iterator[str]:
    """Every setting."""
    yield from table(
        ("setting", "meaning", "written as", "default", "looked for in this order"),
        (
            (
                code(setting.name),
                setting.help,
                setting.kind.expected.replace("|", r"\|"),
                _default(setting),
                ", ".join(_sources(setting)),
            )
            for setting in SETTINGS
        ),
    )


_OPTION_WORDS = {"models": "the REFs of the command line, separated by white space"}
_LISTS = frozenset({"include", "exclude", "since"})


def options() -> Iterator[str]:
    """Every option that is no setting and is read from a variable too."""
    rows = []
    for name in OPTIONS:
        option = variable(name)
        used = [each for each in NAMES if any(param.envvar == option for param in command_of(each).params)]
        words = _OPTION_WORDS.get(name, f"`--{name}`" + (", separated by white space" if name in _LISTS else ""))
        rows.append((code(option), words, ", ".join(used)))
    yield from table(("variable", "stands for", "of"), rows)


_MODEL_KEYS = {
    "repo": "`org/name`; required",
    "revision": "a branch, a tag, a commit of 40 digits, or a range of version tags such as `^1.2`, which only a lock resolves",
    "type": "`model`, `dataset` or `space`",
    "include": "patterns of the files to take; none: all",
    "exclude": "patterns of the files to leave out",
}


_MIRROR_KEYS = {
    "url": "`https://host` (the Hub's protocol), `files+https://host/folder` (any web server), `modelscope+https://www.modelscope.cn`, "
    "`s3://bucket/prefix` or a folder (a store of ci-modelcache); a folder begins with `/`, `./`, `../` or `~`; required",
    "priority": "of equally good mirrors the one with the lowest number is asked first; 0 to 9999",
    "token": "what provides its token, never the token itself; in the file of a project only `env:CI_MODELCACHE_TOKEN_<HOST>`",
    "region": "of `s3://`",
    "max_rate": "the most that is asked of it, as `limit-rate`",
    "trust": "whether it is believed about what a revision means when the endpoint cannot be reached",
}


def mirrors() -> Iterator[str]:
    """The keys of ``[[mirrors]]``."""
    fields = attrs.fields(Mirror)
    yield from table(
        ("key", "meaning", "default"), ((code(f.name), _MIRROR_KEYS[f.name], _mirror_default(f)) for f in fields)
    )


def _mirror_default(field: attrs.Attribute[Any]) -> str:
    return "-" if field.default in {attrs.NOTHING, None} else code(str(field.default).lower())


def models() -> Iterator[str]:
    """The keys of ``[[models]]``."""
    fields = attrs.fields(ProjectModel)
    yield from table(
        ("key", "meaning", "default"), ((code(f.name), _MODEL_KEYS[f.name], _model_default(f)) for f in fields)
    )


def _model_default(field: attrs.Attribute[Any]) -> str:
    if field.default is attrs.NOTHING:
        return "-"
    return code("[]" if field.default == () else f'"{field.default}"')


# --- reports

Shape = type | dict[str, "Shape"] | list["Shape"]
"""What a document is made of: a class, an object with these keys, or a list of equal things."""

SETTING: Shape = {"value": object, "origin": str}
DOCUMENTS: dict[str, Shape] = {
    "restore": {"snapshots": [RestoreReport]},
    "restore --lookup-only": {"snapshots": [LookupReport]},
    "fetch": {"snapshots": [FetchReport]},
    "warm": WarmReport,
    "save": SaveReport,
    "export": ExportReport,
    "import": ImportReport,
    "import --part": StagedReport,
    "presign": PresignReport,
    "docker context": ContextReport,
    "docker context --tar": StreamReport,
    "docker build": BuildReport,
    "docker inspect": ImagesReport,
    "docker verify": ImageVerifyReport,
    "dockerfile": {"style": str, "dockerfile": str},
    "lock": LockReport,
    "lock --check": {"path": str, "matches": int},
    "ls": {"store": str, "snapshots": [StoredSnapshot]},
    "info": SnapshotInfo,
    "path": {"ref": str, "commit": str, "path": str},
    "verify": VerifyReport,
    "replicate": ReplicateReport,
    "prune": PruneReport,
    "undelete": {"store": str, "snapshots": [DroppedSnapshot]},
    "pin": {"store": str, "pins": [PinnedSnapshot]},
    "unpin": {"store": str, "unpinned": [str]},
    "du": UseReport,
    "stats": StatsReport,
    "mirrors": MirrorsReport,
    "mirrors bench": BenchReport,
    "mirrors check": CheckReport,
    "auth status": AuthReport,
    "auth login": {"host": str, "protection": str},
    "auth logout": {"host": str, "forgotten": int},
    "config": {"settings": {"<name>": SETTING}, "models": [ProjectModel]},
    "doctor": DoctorReport,
    "demo": DemoReport,
    "completion": {"shell": str, "script": str},
}
"""What each command prints with ``--json``."""

FAILURE: Shape = {"error": {"type": str, "message": str, "hint": str | None, "exit_code": int}}  # type: ignore[dict-item]  # a union is what the hint is

_TYPES = {
    str: "text",
    Digest: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    object: "any of these, or null",
}

MEANINGS = {
    "ref": "the model as it was asked for",
    "repo": "`org/name`",
    "type": "`model`, `dataset` or `space`",
    "host": "the Hub that the name belongs to",
    "commit": "40 hex digits",
    "revisions": "branches and tags that mean this commit, as the store knows",
    "selection": "`all`, or 16 hex digits that stand for the patterns",
    "path": "where the model is",
    "source": "where the bytes came from: a store, a Hub, or the folder itself",
    "store": "the store's address",
    "stale": "whether the Hub could not be asked, so that `commit` may be an old one",
    "manifest": "SHA-256 of the manifest",
    "digest": "the set digest: one SHA-256 for all files and their paths; usable as a cache key",
    "files": "how many files the snapshot has",
    "size": "bytes of the snapshot",
    "files_restored": "how many files were written or linked now",
    "bytes_downloaded": "bytes that came over a network, from the store or the Hub",
    "bytes_uploaded": "bytes that the store did not have yet",
    "bytes_copied": "bytes that were copied on this machine",
    "bytes_linked": "bytes that were linked, which costs nothing",
    "bytes_from_tier": "bytes that lay in the tier of this machine; they are among those copied or linked",
    "replaced": "files that were here with other content",
    "extra": "files at the destination that the snapshot does not have",
    "pruned": "whether `extra` was removed",
    "saved": "whether the store has it now because of this run",
    "missing": "files of the snapshot that the store lacks",
    "warnings": "what went wrong without harm to the result",
    "seconds": "how long it took",
    "removed": "models that are no longer in modelcache.toml",
    "models": "the models",
    "snapshots": "one for each model, in the order asked for",
    "problems": "all that is not as promised; empty is good",
    "problem": "a sentence when it cannot be read (its numbers are 0 then), else empty",
    "provenance": "where it came from, for people",
    "blobs": "how many different files were read",
    "bytes_read": "how much was read; what was wrong at first counts twice",
    "checks": "all checks, in the order in which a restore meets them",
    "name": "what was looked at",
    "status": "`ok`, `warning` or `failed`",
    "detail": "what was found",
    "hint": "what to do, or empty",
    "exit_code": "the exit code that this failure has, or 0",
    "snapshot": "the snapshot",
    "what": "a path, or `manifest`",
    "kind": "`missing`, `wrong`, or `unsupported` by this version",
    "why": "a sentence",
    "change": "`kept`, `added` or `moved`",
    "before": "the commit that it moved from, or empty",
    "sha256": "of the content",
    "git_oid": "what git names: the content, or for an LFS file its pointer",
    "lfs": "whether the Hub keeps it in LFS",
    "executable": "whether it is restored as 0755",
    "leaves": "the digest of its leaf list; only files over 16 MiB have one",
    "auth login.host": "whose token is kept now",
    "protection": "how it is kept",
    "auth logout.host": "whose tokens are forgotten",
    "forgotten": "how many there were",
    "settings": "every setting by name",
    "settings.<name>": "a setting",
    "value": "its value; a secret is `***`, and null says that there is none; of `mirrors` a list of objects with the keys of `[[mirrors]]` and `kind`; "
    "of `tokens` a list of objects with `host`, `provider` and `origin`; of `replicas` a list of texts",
    "origin": "where it comes from: a flag, a variable, `modelcache.toml:3`, `default`",
    "shell": "the shell",
    "script": "the script",
    "hub": "the address of the Hub on this machine",
    "folder": "where it happened; it is removed again",
    "faults": "what went wrong on purpose",
    "steps": "the restores",
    "requests": "how many requests the Hub and its mirror saw",
    "received": "bytes of files that they sent",
    "model": "its name",
    "report": "as in `snapshots[]` of [restore](#json-restore)",
    "include": "the patterns of modelcache.toml",
    "exclude": "the patterns of modelcache.toml",
    "error": "the failure",
    "error.type": "its class, see [exit codes](#exit-codes)",
    "error.message": "what happened",
    "error.hint": "what to do, or null",
    "error.exit_code": "the exit code of the process",
    "lock.path": "the lock file",
    "lock.models": "the models that are locked now",
    "lock --check.path": "the lock file",
    "lock --check.matches": "how many models match",
    "undelete.snapshots": "what is back, or without REF what can be brought back",
    "pin.pins": "what is pinned now, or without REF all that is",
    "unpin.unpinned": "what is not pinned any longer, by repository and commit",
    "ls.snapshots": "all snapshots of the store",
    "info.files": "its files",
    "info.files[].path": "relative to the snapshot",
    "info.files[].size": "bytes",
    "verify.store": "the store that was read",
    "verify.snapshots": "how many snapshots were read",
    "verify.files": "how many files they have",
    "config.models": "the models of modelcache.toml",
    "config.models[].revision": "a branch, tag, commit or range",
    "demo.steps[].what": "what was restored, and where to",
    "demo.steps[].result": "`local`, `hit` or `miss`",
    "docker context.snapshots": "one for each model, in the order asked for, as in [restore](#json-restore)",
    "dockerfile.style": "`run`, `copy` or `add`",
    "dockerfile.dockerfile": "the text",
    "verify.problems[].kind": "`missing`, `wrong`, `spare`, `dropped`, or `unsupported` by this version: see [verify.md](verify.md)",
    "verify.problems[].what": "a path, `manifest`, or the key of an object",
}
"""What a field means that has no docstring of its own: by document and path, by path, or by name."""


@attrs.frozen
class Field:
    """One field of a document; *path* as jq has it, without the first dot."""

    path: str
    type: str
    meaning: str


def fields(document: str, shape: Shape) -> Iterator[Field]:
    """The fields of *shape*, which is what *document* looks like; each before those that are inside of it."""
    yield from _fields(document, shape, "", {})


def _fields(document: str, shape: Any, at: str, docs: dict[str, str]) -> Iterator[Field]:
    if at:
        yield Field(at.removesuffix("[]"), _type(shape), _meaning(document, at, docs))
    if isinstance(shape, list):
        yield from list(_fields(document, shape[0], f"{at}[]", docs))[1:]
    elif get_origin(shape) is tuple:
        yield from list(_fields(document, get_args(shape)[0], f"{at}[]", docs))[1:]
    elif isinstance(shape, dict):
        for key, inner in shape.items():
            yield from _fields(document, inner, _below(at, key), docs)
    elif attrs.has(shape) and shape is not Digest and not (at and shape is RestoreReport and document == "demo"):
        hints, own = get_type_hints(shape), _field_docs(shape)
        for field in attrs.fields(shape):
            yield from _fields(document, hints[field.name], _below(at, field.name), own)


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _meaning(document: str, at: str, docs: dict[str, str]) -> str:
    path = at.removesuffix("[]")
    name = path.rpartition(".")[2]
    for key in (f"{document}.{path}", path):
        if "." in key and key in MEANINGS:
            return MEANINGS[key]
    if name in docs:
        return docs[name]
    if name not in MEANINGS:
        msg = f"nobody says what {path} of {document} means: give the field a docstring, or add it to MEANINGS"
        raise LookupError(msg)
    return MEANINGS[name]


def _type(shape: Any) -> str:
    if isinstance(shape, list) or get_origin(shape) is tuple:
        inner = _type(shape[0] if isinstance(shape, list) else get_args(shape)[0])
        return f"list of {inner}s" if inner in {"text", "object", "number"} else f"list of {inner}"
    if get_origin(shape) in {Union, types.UnionType}:
        return " or ".join("null" if each is type(None) else _type(each) for each in get_args(shape))
    if not isinstance(shape, type):
        return "object"
    return "text" if issubclass(shape, str) else _TYPES.get(shape, "object")


def _field_docs(kind: type) -> dict[str, str]:
    """The docstrings below the fields of *kind*."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: _lower(_markdown(inspect.cleandoc(str(below.value.value))))
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def _lower(sentence: str) -> str:
    """As the other cells: no capital at the beginning, no full stop at the end."""
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def reports() -> Iterator[str]:
    """What ``--json`` prints."""
    for document, shape in DOCUMENTS.items():
        yield f'<a id="json-{document.replace(" --", "-").replace(" ", "-")}"></a>'
        yield f"**{document}**"
        yield ""
        yield from _fields_table(document, shape)


def failure() -> Iterator[str]:
    """What ``--json`` prints for a failure."""
    yield from _fields_table("failure", FAILURE)


def _fields_table(document: str, shape: Shape) -> Iterator[str]:
    rows = ((code(field.path), field.type, field.meaning) for field in fields(document, shape))
    yield from table(("field", "type", "meaning"), rows)
    yield ""


# --- exit codes

_IN_TREE = re.compile(r"^ *((?:\|  )*)\+- (\w+) +(?:\d+ +)?(\S.*)$", re.MULTILINE)


def exit_codes() -> Iterator[str]:
    """Every class of errors.py, indented below the one that it is a kind of."""
    rows = [("1", code("ModelCacheError"), "the root of them all")]
    for match in _IN_TREE.finditer(str(errors.__doc__)):
        kind: type[errors.ModelCacheError] = getattr(errors, match[2])
        depth = len(kind.__mro__) - len(errors.ModelCacheError.__mro__) - 1
        rows.append((str(kind.exit_code), "&nbsp;" * 4 * depth + code(match[2]), match[3]))
    yield from table(("exit code", "class", "meaning"), sorted(rows, key=lambda row: int(row[0])))


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "common-options": common_options,
    "commands": commands,
    "settings": settings,
    "options": options,
    "models": models,
    "mirrors": mirrors,
    "reports": reports,
    "failure": failure,
    "exit-codes": exit_codes,
}


def renewed(text: str) -> str:
    """*text* with every generated block made anew."""

    def renew(match: re.Match[str]) -> str:
        lines = "\n".join(BLOCKS[match[2]]()).strip("\n")
        return f"{match[1]}\n{lines}\n\n{match[3]}"

    return _BLOCK.sub(renew, text)


if __name__ == "__main__":
    FILE.write_text(renewed(FILE.read_text(encoding="utf-8")), encoding="utf-8")
