"""
The only module that writes Dockerfiles: a pure function of the lock and of what its user chose.

A Dockerfile is a program, and names of files come from repositories of strangers: every word that is not ours is quoted for whoever
reads it (`_word` for Docker, `shlex.quote` for the shell), or refused.
"""

from __future__ import annotations

import json
import re
import shlex
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import field, frozen

from ci_modelcache.docker.labels import LABEL, ImageLayout, ImageModel, label_of
from ci_modelcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attrs import Attribute

    from ci_modelcache.model.lock import Lock, LockedModel
    from ci_modelcache.model.manifest import FileEntry

    Address = Callable[[LockedModel, FileEntry], str]

STAGE = "models"
"""The stage that restores, and the named context that may stand for it."""
CONTEXT = "modelcache"
"""The folder of a build context that is ours: its tree is that of the image's root."""
MAX_FILES = 100
"""Files that are added one by one: each makes a layer, and an image has 127 at most."""
URLS_SECRET = "/run/secrets/urls"  # noqa: S105  # where Docker mounts it, no secret itself
AWS_SECRET = "/run/secrets/aws"  # noqa: S105  # as above
_PYZ = "ci-modelcache.pyz"
_PROGRAM = "/usr/local/bin/ci-modelcache"
_LOCK = "/modelcache.lock"
_CACHE = "/var/cache/ci-modelcache"

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9_+@=,-][A-Za-z0-9._+@=,-]*)+")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:+@%=,~?&-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_EXPANDED = re.compile(r"([\\$\"'])")
"""What Docker reads as a quote, an escape or a variable in the words of ADD and COPY, in their JSON form too."""
_PATTERN = re.compile(r"[*?\[\\]")


class Style(StrEnum):
    """How the models come into the image."""

    RUN = "run"
    """A stage restores them."""
    COPY = "copy"
    """From the context, where ``docker context`` put them."""
    ADD = "add"
    """Docker downloads each file, and checks its SHA-256."""


class Secret(StrEnum):
    """What the restoring stage is lent."""

    AWS = "aws"
    """A file of AWS credentials."""
    URLS = "urls"
    """A file of presigned URLs."""
    NONE = "none"


def _check_image(_instance: object, attribute: Attribute[str], value: str) -> None:
    if not _IMAGE.fullmatch(value):
        msg = f"not the name of an image: {value!r:.200}"
        raise ConfigError(
            msg, hint=f"--{attribute.name.replace('_', '-')}: write it as python:3.12-slim or host/name@sha256:..."
        )


def check_folder(path: str) -> str:
    """*path*, a folder of an image for models; raises `ConfigError` for one that is not absolute, or cannot be written everywhere."""
    if not _FOLDER.fullmatch(path):
        msg = f"not a folder for models in an image: {path!r:.200}"
        raise ConfigError(msg, hint="--to: write it as /models: absolute, of letters, digits and . _ + @ = , -")
    return path


@frozen
class Recipe:
    """
    What its user chose: the final image is made of *base*, and has the models below the folder *to*. What cannot be written raises `ConfigError`.

    *settings* are the flags that restore is given, *variables* the environment, none of them secret; *lock_file* is the lock's path in the context.
    """

    style: Style
    base: str = field(validator=_check_image)
    to: str = field(default="/models")
    layout: ImageLayout = ImageLayout.PLAIN
    python_image: str = field(default="python:3.12-slim", validator=_check_image)
    secret: Secret = Secret.NONE
    settings: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    lock_file: str = field(default="modelcache.lock")

    @to.validator
    def _check_to(self, _attribute: Attribute[str], value: str) -> None:
        check_folder(value)

    @lock_file.validator
    def _check_lock_file(self, _attribute: Attribute[str], value: str) -> None:
        if _PATTERN.search(value) or _CONTROL.search(value):
            msg = f"COPY would read the path of the lock as a pattern: {value!r:.200}"
            raise ConfigError(msg, hint="give the file another name: --lock-file")

    def __attrs_post_init__(self) -> None:
        if self.style is Style.RUN and self.base.lower() == STAGE:
            msg = f"--base {self.base} is the name of the stage that restores the models"
            raise ConfigError(msg, hint=f"name the image in full, such as docker.io/library/{self.base}")
        for text in (*self.settings, *(value for _, value in self.variables)):
            if _CONTROL.search(text):
                msg = f"a setting has a line break or another control character: {text!r:.200}"
                raise ConfigError(msg, hint="ci-modelcache config shows where it comes from")


def dockerfile(lock: Lock, recipe: Recipe, *, address: Address | None = None) -> str:
    """
    The text of a Dockerfile for all models of *lock*; *address* tells from where the style ``add`` downloads a file.

    The same arguments give the same text. Raises `ConfigError` when there are too many files to add one by one, or two models would share a folder.
    """
    if not lock.models:
        msg = "the lock names no model"
        raise ConfigError(msg, hint="add [[models]] to modelcache.toml and run ci-modelcache lock")
    models = [ImageModel.of_locked(model, root=recipe.to, layout=recipe.layout) for model in lock.models]
    # First: it refuses two models in one folder.
    label = _label(models)
    if recipe.style is Style.RUN:
        lines = _run(recipe)
    elif recipe.style is Style.COPY:
        lines = _copy(recipe)
    else:
        if address is None:
            msg = "the style add needs addresses"
            raise ValueError(msg)
        lines = _add(lock, recipe, address)
    return "\n".join([*lines, *label, *_environment(recipe)]) + "\n"


def _run(recipe: Recipe) -> Iterator[str]:
    lent = {
        Secret.AWS: "--secret id=aws,src=$HOME/.aws/credentials ",
        Secret.URLS: "--secret id=urls,src=urls.json ",
        Secret.NONE: "",
    }[recipe.secret]
    yield "# Written by: ci-modelcache dockerfile --style run"
    yield f"# The context needs {_PYZ} and the lock, which is what this layer depends on. To build it:"
    yield f"#   DOCKER_BUILDKIT=1 docker build {lent}-t NAME ."
    # The models are the same on every platform: they are restored once, by the builder's own.
    yield f"FROM --platform=$BUILDPLATFORM {recipe.python_image} AS {STAGE}"
    yield f"COPY {_PYZ} {_PROGRAM}"
    yield f"COPY {_words(recipe.lock_file, _LOCK)}"
    yield " \\\n    ".join(["RUN " + mount for mount in _mounts(recipe)[:1]] + _mounts(recipe)[1:] + _restore(recipe))
    yield ""
    yield f"FROM {recipe.base}"
    yield f"COPY --from={STAGE} /out/ /"


def _mounts(recipe: Recipe) -> list[str]:
    lent = {Secret.AWS: AWS_SECRET, Secret.URLS: URLS_SECRET}
    secrets = [f"--mount=type=secret,id={recipe.secret},target={lent[recipe.secret]}"] if recipe.secret in lent else []
    return [*secrets, f"--mount=type=cache,target={_CACHE}"]


def _restore(recipe: Recipe) -> list[str]:
    """The lines of the shell command."""
    aws = (("AWS_SHARED_CREDENTIALS_FILE", AWS_SECRET),) if recipe.secret is Secret.AWS else ()
    variables = (*aws, *recipe.variables, ("PYTHONDONTWRITEBYTECODE", "1"))
    where = "--to" if recipe.layout is ImageLayout.PLAIN else "--hub-cache"
    urls = ("--from-urls", URLS_SECRET) if recipe.secret is Secret.URLS else ()
    lines = [
        " ".join(f"{name}={shlex.quote(value)}" for name, value in variables),
        f"python3 {_PROGRAM} restore --locked --lock-file {_LOCK} {where} /out{recipe.to}",
    ]
    more = shlex.join((*urls, *recipe.settings))
    return [*lines, more] if more else lines


def _copy(recipe: Recipe) -> Iterator[str]:
    yield "# Written by: ci-modelcache dockerfile --style copy"
    yield f"# The context needs the folder {CONTEXT}/, which this makes: ci-modelcache docker context ."
    yield "# An engine with named contexts can take it from anywhere, with a line COPY --link --from=models / / and"
    yield f"#   docker build --build-context models={CONTEXT} ."
    yield f"FROM {recipe.base}"
    yield f"COPY {CONTEXT}/ /"


def _add(lock: Lock, recipe: Recipe, address: Address) -> Iterator[str]:
    if recipe.layout is not ImageLayout.PLAIN:
        msg = "ADD makes no links, of which a Hub cache consists: --style add has --layout plain only"
        raise ConfigError(msg, hint="use --style run or --style copy, or leave --layout out")
    files = [(model, file) for model in lock.models for file in model.files]
    if len(files) > MAX_FILES:
        msg = f"the lock has {len(files)} files, and --style add makes a layer of each: at most {MAX_FILES}"
        raise ConfigError(msg, hint="use --style run or --style copy, which make one layer of all")
    yield "# syntax=docker/dockerfile:1"
    yield "# Written by: ci-modelcache dockerfile --style add"
    yield "# The checksums decide what is downloaded again; the addresses do not. Presigned ones stay readable in this"
    yield "# file and in what the build says of itself: let them expire soon."
    yield f"FROM {recipe.base}"
    for model, file in files:
        mode = "755" if file.executable else "644"
        words = _words(address(model, file), f"{recipe.to}/{model.repo}/{file.path}")
        yield f"ADD --link --chmod={mode} --checksum=sha256:{file.sha256.hex} {words}"


def _environment(recipe: Recipe) -> Iterator[str]:
    cache = f" HF_HUB_CACHE={recipe.to}" if recipe.layout is ImageLayout.HUB else ""
    yield f"ENV HF_HUB_OFFLINE=1{cache}"


def _words(source: str, target: str) -> str:
    """The arguments of COPY and ADD: as they are, or in the JSON form when there is anything in them that somebody might read otherwise."""
    if all(_PLAIN_WORD.fullmatch(word) for word in (source, target)):
        return f"{source} {target}"
    return f"[{_word(source)}, {_word(target)}]"


def _word(text: str) -> str:
    r"""
    One word of the JSON form. Variables and quotes are read there too, after the JSON: so they are escaped twice.

    A ``<`` could begin a here-document; it is written as ``\u003c``.
    """
    if _CONTROL.search(text):
        msg = f"a Dockerfile cannot name {text!r:.200}: it has a control character"
        raise ConfigError(msg, hint="use --style run or --style copy")
    return json.dumps(_EXPANDED.sub(r"\\\1", text), ensure_ascii=False).replace("<", "\\u003c")


def _label(models: list[ImageModel]) -> Iterator[str]:
    r"""
    The LABEL in single quotes, in which Docker expands nothing; what would end them or escape is written as ``\uXXXX``.

    A model a line: an old frontend takes no line over 64 KiB.
    """
    plain = json.loads(label_of(models))
    objects = [_inert(json.dumps(model, ensure_ascii=False, separators=(",", ":"), sort_keys=True)) for model in plain]
    text = ",\\\n".join(objects)
    yield f"LABEL {LABEL}='[\\\n{text}]'"


def _inert(text: str) -> str:
    r"""JSON without any backslash but those of ``\uXXXX``, and without what Docker could read as its own."""
    escaped = re.sub(r'\\(["\\])', lambda match: f"\\u{ord(match[1]):04x}", text)
    return re.sub(r"['$<`\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", escaped)
