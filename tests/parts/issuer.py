"""
The only module that says who a CI job is: an OpenID Connect issuer on loopback, with the endpoint of GitHub's runners.

Its tokens are signed for real (RS256) by a key that it publishes, as those of GitHub and GitLab are, so that a real STS
can tell them from others.
"""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import define, field
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.parts.token_servers import Asked, Reply, TokenServer, serving_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

AUDIENCE = "sts.amazonaws.com"
_KEY = "key-of-the-issuer"
_RUNNER = "token-of-the-runner"
"""What the runner gives a job to ask for ID tokens with."""


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _number(number: int) -> str:
    return _base64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


@define
class Issuer:
    """
    Issues tokens for *subject* that are good for *seconds*, and remembers them in *issued*.

    Both may be changed while it runs, as may *down*: whether it answers 500 to jobs, though not to those who ask for its keys.
    """

    subject: str
    seconds: float = 300
    down: bool = False
    issued: list[str] = field(factory=list)
    server: TokenServer | None = None
    key: rsa.RSAPrivateKey = field(factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048))

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url

    def token(self, audience: str = AUDIENCE, **claims: object) -> str:
        """A token for *audience*; *claims* come in place of the usual ones."""
        now = int(time.time())
        usual = {"iss": self.url, "sub": self.subject, "aud": audience, "iat": now, "exp": int(now + self.seconds)}
        header = {"alg": "RS256", "typ": "JWT", "kid": _KEY}
        said = ".".join(_base64(json.dumps(each).encode()) for each in (header, {**usual, **claims}))
        token = f"{said}.{_base64(self.key.sign(said.encode(), padding.PKCS1v15(), SHA256()))}"
        self.issued.append(token)
        return token

    def job(self) -> dict[str, str]:
        """The variables that a GitHub job with ``permissions: id-token: write`` has."""
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/job?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": _RUNNER,
        }

    def _answer(self, asked: Asked) -> Reply:
        match urlsplit(asked.path).path:
            case "/.well-known/openid-configuration":
                algorithms = {"id_token_signing_alg_values_supported": ["RS256"]}
                return Reply({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **algorithms})
            case "/keys":
                public = self.key.public_key().public_numbers()
                key = {"kty": "RSA", "kid": _KEY, "use": "sig", "alg": "RS256"}
                return Reply({"keys": [{**key, "n": _number(public.n), "e": _number(public.e)}]})
            case "/job" if self.down:
                return Reply(status=500)
            case "/job" if asked.bearer == _RUNNER:
                return Reply({"value": self.token(asked.query.get("audience", "https://github.com/acme"))})
        return Reply(status=403)


@contextmanager
def issuing(subject: str) -> Iterator[Issuer]:
    """Yield a running issuer."""
    issuer = Issuer(subject)
    with serving_tokens(issuer._answer) as issuer.server:
        yield issuer
