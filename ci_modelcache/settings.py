"""
The only list of settings: names, flags, variables, defaults and how their text is read.

`ci_modelcache.config` finds each one's value; the flags of the commands, `ci-modelcache config` and the checks of
the documentation are made from this list, so that there is no second one to keep in step.
"""

from __future__ import annotations

import enum
from enum import StrEnum

from attrs import frozen

from ci_modelcache.kinds import (
    DEADLINE,
    DURATION,
    FALSE,
    MIRRORS,
    PATH,
    PROVIDERS,
    RATE,
    REGION,
    ROLE,
    STORE,
    STORES,
    SWITCH,
    TOKEN,
    URL,
    Kind,
    choices,
    numbers,
)
from ci_modelcache.model.encoding import Encoding

PREFIX = "CI_MODELCACHE_"
"""What the variables of this tool begin with."""

OPTIONS = (
    "models",
    "to",
    "locked",
    "fail-on-miss",
    "lookup-only",
    "include",
    "exclude",
    "output",
    "format",
    "since",
    "zstd",
    "split",
    "window",
    "expires",
    "from-urls",
)
"""What single commands take besides settings and is read from variables too, so that YAML need only name values; ``models`` are the REFs."""

DEFAULT_ENDPOINT = "https://huggingface.co"

_MAX_WORKERS = 256
_MAX_EPOCH = 253402300799  # the end of the year 9999, which every archive format can still write


class Mode(StrEnum):
    """What may be done with the store; `AUTO` is decided by what the CI system says of the job (`ci_modelcache.ci.job`)."""

    AUTO = "auto"
    READ = "read"
    READ_WRITE = "read-write"
    OFF = "off"


class System(StrEnum):
    """The CI system that is told what happened."""

    GITHUB = "github"
    GITLAB = "gitlab"
    OFF = "off"


class OfflineEnv(StrEnum):
    """Whether later steps of a job are told where the models are, and to ask no Hub once all of them are proven."""

    AUTO = "auto"
    NEVER = "never"


class ProgressStyle(StrEnum):
    """How progress is shown: a bar on terminals and lines elsewhere, or always the one named."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    OFF = "off"


class Flag(enum.Enum):
    """Which commands have a flag for a setting."""

    COMMON = enum.auto()
    SOME = enum.auto()
    NONE = enum.auto()


def variable(name: str) -> str:
    """The variable of the setting or option *name*."""
    return PREFIX + name.upper().replace("-", "_")


@frozen
class Alias:
    """A *variable* of another tool; *template* makes our text of its value, *ignored* ones count as unset."""

    variable: str
    template: str = "{}"
    ignored: frozenset[str] = frozenset()


@frozen
class Setting:
    """
    One setting. *name* is its flag, its key in modelcache.toml and, in capitals, its variable.

    *aliases* are heard before modelcache.toml, *ambient* ones after it, and then what the setting *like* says.
    *default* is a text with ``{cache}`` and other places that `Config.load` fills in; None means that there is no value.
    """

    name: str
    kind: Kind
    help: str
    default: str | None = None
    flag: Flag = Flag.COMMON
    in_file: bool = True
    secret: bool = False
    aliases: tuple[Alias, ...] = ()
    ambient: tuple[Alias, ...] = ()
    like: str | None = None
    default_file: str | None = None
    """The file, if it exists, that holds the value: a text with places, as *default*."""
    flag_name: str | None = None
    """The name of its flag when that is another one; such a flag may be given several times."""

    @property
    def option(self) -> str:
        """Its flag: ``--store``."""
        return f"--{self.flag_name or self.name}"

    @property
    def variable(self) -> str:
        """The name of its variable."""
        return variable(self.name)

    @property
    def attribute(self) -> str:
        """The name of its attribute of `Config`."""
        return self.name.replace("-", "_")


_REQUESTS = tuple(Alias(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))

SETTINGS: tuple[Setting, ...] = (
    Setting("store", STORE, "Where snapshots are kept: s3://BUCKET/PREFIX or a folder.", "{cache}/ci-modelcache/store"),
    Setting(
        "replicas",
        STORES,
        "Stores that are read, in this order, for what the store lacks, and never written. May be repeated.",
        flag_name="replica",
    ),
    Setting(
        "endpoint-url",
        URL,
        "URL of an S3 service other than AWS.",
        ambient=(Alias("AWS_ENDPOINT_URL_S3"), Alias("AWS_ENDPOINT_URL")),
    ),
    Setting(
        "region",
        REGION,
        "Region of the S3 service.",
        ambient=(Alias("AWS_REGION"), Alias("AWS_DEFAULT_REGION")),
    ),
    Setting("role-to-assume", ROLE, "AWS role that this job takes on with the identity that its CI system gives it."),
    Setting(
        "mode",
        choices(Mode),
        "What may be done with the store; auto: a CI job of a pull request only reads.",
        Mode.AUTO,
    ),
    Setting(
        "encoding",
        choices(Encoding),
        "How weights are stored anew: raw, or packed, for links that are slower than unpacking.",
        Encoding.RAW,
        flag=Flag.SOME,
    ),
    Setting(
        "endpoint",
        URL,
        "The Hub that says which files a revision has.",
        DEFAULT_ENDPOINT,
        aliases=(Alias("HF_ENDPOINT"),),
    ),
    Setting(
        "token",
        TOKEN,
        "Access token for the endpoint, and for no other host.",
        flag=Flag.NONE,
        in_file=False,
        secret=True,
        aliases=(Alias("HF_TOKEN"), Alias("HUGGING_FACE_HUB_TOKEN")),
        default_file="{token_file}",
    ),
    Setting(
        "offline",
        SWITCH,
        "Ask no Hub: what the store does not hold is a miss.",
        "no",
        aliases=(Alias("HF_HUB_OFFLINE"), Alias("TRANSFORMERS_OFFLINE")),
    ),
    Setting(
        "mirrors",
        MIRRORS,
        "Fetch files from here too; the first of equally good ones is preferred. May be repeated.",
        aliases=(Alias("HF_MIRROR_PRIORITY"),),
        flag_name="mirror",
    ),
    Setting(
        "trust-mirror-metadata",
        SWITCH,
        "Let restore believe mirrors about what a revision means when the endpoint cannot be reached.",
        "no",
    ),
    Setting(
        "tokens",
        PROVIDERS,
        "Where the tokens for other hosts come from, such as hub.internal=env:NAME.",
        flag=Flag.NONE,
        in_file=False,
        secret=True,
    ),
    Setting("limit-rate", RATE, "Transfer no more than this a second, all together, such as 20MB."),
    Setting("deadline", DEADLINE, "Give up after this long, such as 15m."),
    Setting(
        "revision-ttl",
        DURATION,
        "How long the store is believed about the commit of a branch.",
        "1h",
        flag=Flag.SOME,
    ),
    Setting(
        "hub-cache",
        PATH,
        "The Hub cache to restore into when no folder is named.",
        "{cache}/huggingface/hub",
        flag=Flag.SOME,
        aliases=(Alias("HF_HUB_CACHE"), Alias("HUGGINGFACE_HUB_CACHE"), Alias("HF_HOME", "{}/hub")),
    ),
    # Not read from a file, and `report` is not, either: whoever can propose a change to modelcache.toml could otherwise have
    # tokens kept, and lines written, where they are published or run.
    Setting(
        "state",
        PATH,
        "Folder of notes that may be lost without harm.",
        "{cache}/ci-modelcache",
        flag=Flag.NONE,
        in_file=False,
    ),
    Setting(
        "tier",
        PATH,
        "Folder of blobs on this machine that is asked before the store, and keeps what was downloaded.",
        "{tier}",
        flag=Flag.SOME,
    ),
    Setting(
        "workers",
        numbers(1, _MAX_WORKERS),
        "Transfers at a time; where nobody sets it, a restore takes up to 32 from the store as long as more bring more.",
        "8",
    ),
    Setting("ca-bundle", PATH, "File of the authorities that TLS trusts, in place of the built-in ones."),
    Setting(
        "hub-ca-bundle",
        PATH,
        "The same for the Hub alone.",
        flag=Flag.NONE,
        ambient=_REQUESTS,
        like="ca-bundle",
    ),
    Setting(
        "store-ca-bundle",
        PATH,
        "The same for the store alone.",
        flag=Flag.NONE,
        ambient=(Alias("AWS_CA_BUNDLE"), Alias("SSL_CERT_FILE")),
        like="ca-bundle",
    ),
    Setting(
        "normalize",
        SWITCH,
        "Give all that is restored the same time, modes and owner, so that image layers are reproducible.",
        "{in_container}",
        flag=Flag.SOME,
    ),
    Setting(
        "source-date-epoch",
        numbers(0, _MAX_EPOCH),
        "That time, in seconds since 1970.",
        "0",
        flag=Flag.NONE,
        aliases=(Alias("SOURCE_DATE_EPOCH"),),
    ),
    Setting("lock-file", PATH, "The lock file.", "{project}/modelcache.lock", flag=Flag.SOME),
    Setting(
        "progress",
        choices(ProgressStyle),
        "How progress is shown: a bar on a terminal, lines in a CI log.",
        ProgressStyle.AUTO,
        flag=Flag.NONE,
        ambient=(Alias("CI", "lines", ignored=FALSE),),
    ),
    Setting(
        "ci",
        choices(System),
        "The CI system that is told what happened: outputs, annotations, a summary.",
        System.OFF,
        in_file=False,
        ambient=(
            Alias("GITHUB_ACTIONS", System.GITHUB, ignored=FALSE),
            Alias("GITLAB_CI", System.GITLAB, ignored=FALSE),
        ),
    ),
    Setting(
        "offline-env",
        choices(OfflineEnv),
        "Tell the CI job's next commands where the models are, and to ask no Hub when all are proven.",
        OfflineEnv.NEVER,
        flag=Flag.SOME,
        in_file=False,
    ),
    Setting("report", PATH, "Append what happens, as JSON lines, to this file.", in_file=False),
    Setting("color", SWITCH, "Colours on a terminal.", "yes", flag=Flag.NONE, ambient=(Alias("NO_COLOR", "no"),)),
)
