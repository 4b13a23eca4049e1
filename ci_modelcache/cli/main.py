"""
The command line: the table of commands, and the only place where errors end, as a message and an exit code.

Each command is a module of this package, imported only when it is used: ``--help`` must not pay for botocore.
"""

from __future__ import annotations

import errno
import itertools
import json
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import click

from ci_modelcache import __version__
from ci_modelcache.cli.groups import Group
from ci_modelcache.cli.output import emit
from ci_modelcache.container import in_build
from ci_modelcache.errors import Interrupted, ModelCacheError
from ci_modelcache.model.hidden import Secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

PROGRAM = "ci-modelcache"
ISSUES = "https://github.com/ci-modelcache/ci-modelcache/issues"

COMMANDS = {
    "restore": "Put models in place, verified, from the store or the Hub.",
    "fetch": "Fill the store with models, and restore nothing.",
    "warm": "Fill the store with what jobs will need, before they do.",
    "save": "Store a local folder as a model.",
    "export": "Write models from the store into one tar archive.",
    "import": "Put the models of an archive into the store.",
    "presign": "Print URLs by which a build reads models without credentials.",
    "docker": "Build images with models in them, and check what is in one.",
    "dockerfile": "Print a Dockerfile that brings the models of the lock.",
    "lock": "Write modelcache.lock: what --locked accepts, and nothing else.",
    "ls": "List the snapshots in the store.",
    "info": "Show what the store holds of a model.",
    "path": "Print where a restored model is.",
    "verify": "Read stored models again and prove every byte.",
    "replicate": "Copy what another store lacks, and nothing else.",
    "prune": "Remove what nobody needs any more from the store.",
    "undelete": "Bring back models that prune dropped.",
    "pin": "Keep a model, whatever prune is told.",
    "unpin": "Let prune decide about a model again.",
    "du": "Show which models use how much of the store.",
    "stats": "Count what reports say about speed, errors, retries and hits.",
    "mirrors": "Show how mirrors did, measure them, or check them.",
    "auth": "Show, keep or forget the access tokens of hosts.",
    "config": "Show every setting and where it comes from.",
    "doctor": "Find out what is wrong with this machine's setup.",
    "demo": "Show all of it on this machine alone: no account, no Hub.",
    "completion": "Print the script that completes commands in your shell.",
}
"""Every command and its summary, which a test compares with the command's own."""

_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


class Commands(Group):
    """The group of all commands."""

    table = COMMANDS
    prefix = "ci_modelcache.cli."

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # click would take it for a closed stdout and say nothing; ours does not raise it (see `output.emit`).
            msg = "a broken pipe that nobody handled"
            raise RuntimeError(msg) from error


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  # click's signature
    if wanted and not ctx.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{PROGRAM} COMMAND --help shows a command's options and examples.",
)
@click.option("-q", "--quiet", count=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", count=True, help="Say more; -vv names every request.")
@click.option("--json", is_flag=True, help="Print the result as one JSON object.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def commands(ctx: click.Context, /, **_output: object) -> None:
    """AI model snapshots for CI: kept in your S3 bucket, restored and verified without asking the Hub."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: this process's), tell how it went, and return the exit code."""
    if in_build():
        sys.dont_write_bytecode = True  # it would be in the layer, with times of its own
    arguments = list(sys.argv[1:] if argv is None else argv)
    secrets = Secrets()
    as_json = "--json" in itertools.takewhile(lambda argument: argument != "--", arguments)
    failed = _Failure(as_json=as_json, secrets=secrets)
    try:
        with _sigterm_like_ctrl_c(), _abandoning():
            result = commands.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=secrets)
    except ModelCacheError as error:
        return failed.known(error)
    except (KeyboardInterrupt, click.Abort):
        return failed.known(Interrupted("interrupted; what was received is kept, run again to continue"))
    except click.ClickException as error:
        return failed.usage(error)
    except Exception as error:  # noqa: BLE001  # the end of the line: everything else is a bug
        return failed.unexpected(error)
    return result if isinstance(result, int) else 0


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """CI systems cancel a job by SIGTERM; then staged files are to be removed as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python refuses handlers elsewhere
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _abandoning() -> Iterator[None]:
    """Whatever fails, leave no half file of a thread that is left behind."""
    try:
        yield
    except BaseException:
        from ci_modelcache.transfer.land import abandon  # noqa: PLC0415  # for failures only

        abandon()
        raise


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class _Failure:
    """
    Tells about a failure on stderr and, *as_json*, as the one object on stdout, without the *secrets* that were in use.

    Each method returns the exit code.
    """

    def __init__(self, *, as_json: bool, secrets: Secrets) -> None:
        self._as_json = as_json
        self._secrets = secrets

    def known(self, error: ModelCacheError) -> int:
        notes = getattr(error, "__notes__", [])
        return self._tell(type(error).__name__, "\n  ".join([error.message, *notes]), error.hint, error.exit_code)

    def usage(self, error: click.ClickException) -> int:
        context = getattr(error, "ctx", None)
        path = PROGRAM if context is None else context.command_path
        return self._tell("UsageError", error.format_message(), f"see {path} --help", error.exit_code)

    def unexpected(self, error: Exception) -> int:
        kind = type(error).__name__
        if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename is not None:
            hint = "check the owner and the permissions of that path; -vv shows what was being done"
            return self._tell(kind, f"{error.strerror}: {error.filename}", hint, 1)
        import traceback  # noqa: PLC0415  # bugs may be slow

        self._print("".join(traceback.format_exception(error)).rstrip())
        return self._tell(
            kind, f"this is a bug in {PROGRAM}: {kind}: {error}", f"please report it, with the lines above: {ISSUES}", 1
        )

    def _tell(self, kind: str, message: str, hint: str | None, exit_code: int) -> int:
        reason, *notes = message.split("\n")
        more = [*notes, *([f"  hint: {hint}"] if hint else [])]
        # Of a step that failed builders show the end, some of them a single line.
        lines = [*more, f"error: {reason}"] if in_build() else [f"error: {reason}", *more]
        self._print("\n".join(lines))
        if self._as_json:
            # Redacted before it is quoted: afterwards a quote could be taken for a part of a secret.
            message, hint = self._redacted(message), hint and self._redacted(hint)
            safe = {"type": kind, "message": message, "hint": hint, "exit_code": exit_code}
            from ci_modelcache.ci.inert import inert_json  # noqa: PLC0415  # for failures only

            try:
                emit(inert_json(json.dumps({"error": safe})))
            except ModelCacheError as obstacle:
                self._print(f"error: {obstacle.message}")
        return exit_code

    def _redacted(self, text: str) -> str:
        from ci_modelcache.model.redact import redact  # noqa: PLC0415  # 20 ms, for failures only

        return redact(text, secrets=self._secrets)

    def _print(self, text: str) -> None:
        from ci_modelcache.ci.inert import inert  # noqa: PLC0415  # for failures only

        click.echo(inert(self._redacted(text)), err=True)
