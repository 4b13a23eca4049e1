"""
The only module that reads the policies of ``examples/policies``, and starts a store that goes by them.

SeaweedFS has roles, trust policies with conditions, and an STS that checks signatures of ID tokens. It names what a token
claims ``oidc:sub`` where AWS has ``<issuer>:sub``; that apart the files are used as they are, for another bucket.
"""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import boto3.session
import pytest
from attrs import frozen

from tests.parts.documents import ROOT
from tests.parts.issuer import AUDIENCE, Issuer, issuing
from tests.parts.servers import ADMIN, BUCKET, REGION, S3Server, seaweedfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = ROOT / "examples" / "policies"
MAIN = "repo:acme/app:ref:refs/heads/main"
"""Who a GitHub job of a push to main is."""
PULL_REQUEST = "repo:acme/app:pull_request"
PROTECTED = "project_path:acme/app:ref_type:branch:ref:main"
"""Who a GitLab job of the branch main is."""
MERGE_REQUEST = "project_path:acme/app:ref_type:branch:ref:feature"
ISSUERS = {"github": "token.actions.githubusercontent.com", "gitlab": "gitlab.com"}
PUBLIC = "public-models"


def example(name: str, *, below: str = "") -> Any:
    """The file *name*, for the buckets of the tests; with *below*, such as ``*/``, for a store at that prefix."""
    text = (FOLDER / name).read_text().replace("acme-models/", f"acme-models/{below}")
    return json.loads(text.replace("acme-models", BUCKET).replace("acme-public", PUBLIC))


def arn(role: str) -> str:
    """The ARN of a role such as ``github-writer``."""
    return f"arn:aws:iam::123456789012:role/{role}"


def allows(policy: Any, action: str, resource: str) -> bool:
    """Whether a statement of *policy*, none of which denies anything, allows *action* on *resource*."""
    return any(granted == action and fnmatchcase(resource, pattern) for granted, pattern in grants(policy))


def actions(policy: Any) -> set[str]:
    """Everything that *policy* allows on something."""
    return {action for action, _ in grants(policy)}


def grants(policy: Any) -> Iterator[tuple[str, str]]:
    """Every pair of an action and a pattern of resources that *policy* allows."""
    for statement in policy["Statement"]:
        yield from itertools.product(_many(statement["Action"]), _many(statement["Resource"]))


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@frozen
class RoleStore:
    """A store whose roles ``github-writer``, ``github-reader``, ``gitlab-writer`` and ``gitlab-reader`` go by the examples."""

    server: S3Server
    github: Issuer
    gitlab: Issuer

    @property
    def endpoint(self) -> str:
        return self.server.endpoint


def _roles(issuers: dict[str, Issuer], *, lasts: str, below: str) -> dict[str, Any]:
    """The server's configuration; sessions last as long as *lasts*, such as ``8s``."""
    roles, providers = [], []
    for system, issuer in issuers.items():
        provider = f"arn:aws:iam::123456789012:oidc-provider/{ISSUERS[system]}"
        config = {"issuer": issuer.url, "clientId": AUDIENCE, "jwksUri": f"{issuer.url}/keys"}
        providers.append({"name": provider, "type": "oidc", "enabled": True, "config": config})
        for kind in ("writer", "reader"):
            text = (FOLDER / f"trust-{system}-{kind}.json").read_text().replace(f"{ISSUERS[system]}:", "oidc:")
            role = {"roleName": f"{system}-{kind}", "roleArn": arn(f"{system}-{kind}"), "attachedPolicies": [kind]}
            roles.append({**role, "trustPolicy": json.loads(text)})
    return {
        "sts": {"tokenDuration": lasts, "maxSessionLength": "12h", "issuer": "sts", "signingKey": "a2V5" * 11},
        "providers": providers,
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roleStore": {"storeType": "memory"},
        "roles": roles,
        "policies": [{"name": kind, "document": example(f"{kind}.json", below=below)} for kind in ("writer", "reader")],
    }


@contextmanager
def with_roles(folder: Path, *, lasts: str = "1h", below: str = "*/") -> Iterator[RoleStore]:
    """Yield a running store with roles for *below*, whose sessions last so long, and the issuers that it knows."""
    with issuing(MAIN) as github, issuing(PROTECTED) as gitlab:
        iam = _roles({"github": github, "gitlab": gitlab}, lasts=lasts, below=below)
        with seaweedfs(folder, iam=iam) as server:
            yield RoleStore(server, github, gitlab)


def admin(server: S3Server, *, credentials: tuple[str, str] = ADMIN) -> Any:
    """A client of the one who may do everything, or of whoever has *credentials*."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
    )


@pytest.fixture(scope="session")
def role_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoleStore]:
    with with_roles(tmp_path_factory.mktemp("roles")) as running:
        yield running


@pytest.fixture(scope="session")
def identities_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store that knows who ``seaweedfs-identities.json`` names, with the buckets `BUCKET` and `PUBLIC`."""
    identities = example("seaweedfs-identities.json")["identities"]
    with seaweedfs(tmp_path_factory.mktemp("identities"), identities=identities) as server:
        admin(server).create_bucket(Bucket=PUBLIC)
        yield server
