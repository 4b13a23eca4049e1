"""No secret survives on its way into a message or a log."""

from __future__ import annotations

import io
import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_modelcache.errors import AccessDenied
from ci_modelcache.model.redact import HIDDEN, RedactingFilter, redact

LETTERS = string.ascii_letters + string.digits
SECRET = "Zq7" + "x9Kd" * 8

PLACES = [
    "Authorization: Bearer {}",
    "authorization:bearer {}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    "('Authorization', 'Bearer {}')",
    '{{"authorization": "token {}"}}',
    "Authorization: Basic {}",
    "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20250101/s3, SignedHeaders=host, Signature={}",
    "Proxy-Authorization: Basic {}",
    "Cookie: session={}",
    "Set-Cookie: token={}; HttpOnly",
    "PRIVATE-TOKEN: {}",
    "X-Amz-Security-Token: {}",
    "curl -H 'Authorization: Bearer {}' https://huggingface.co/api/whoami-v2",
    "https://user:{}@example.com/path",
    "https://{}@example.com/path",
    "http://user:p@ss{}@proxy:3128",
    "https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A&X-Amz-Credential={}&X-Amz-Date=1",
    "https://b.s3.amazonaws.com/k?X-Amz-Security-Token={}",
    "https://b.s3.amazonaws.com/k?x-amz-signature={}#fragment",
    "url: /k?X-Amz-Signature={} (Caused by ...)",
    "https://cdn.hf.co/x?Expires=1&Policy={}&Signature=s&Key-Pair-Id=K",
    "https://cdn.hf.co/x?Expires=1&Policy=p&Signature={}&Key-Pair-Id=K",
    "https://cdn.hf.co/x?Expires=1&Policy=p&Signature=s&Key-Pair-Id={}",
    "https://x.blob.core.windows.net/c?sv=2021&sig={}",
    "https://storage.googleapis.com/b?X-Goog-Signature={}",
    "https://storage.googleapis.com/b?GoogleAccessId={}&Expires=1",
    "https://gitlab.example.com/api?private_token={}",
    "https://example.com/?token={}&a=b",
    "next=https%3A%2F%2Fexample.com%3Ftoken%3D{}",
    "HF_TOKEN={} python train.py",
    "export AWS_SECRET_ACCESS_KEY={}",
    '{{"accessToken": "{}", "exp": 1}}',
    "{{'password': '{}'}}",
]

FORMS = ["hf_{}", "hf_oauth_{}", "ghp_{}", "ghs_{}", "github_pat_{}", "glpat-{}", "glcbt-{}", "eyJ{0}.{0}.{0}"]


@pytest.mark.parametrize("place", PLACES)
@given(secret=st.text(alphabet=LETTERS + "-._~+/", min_size=12, max_size=60).map(lambda text: f"Qz{text}zQ"))
def test_a_secret_does_not_survive_in_any_place_where_secrets_are_found(place: str, secret: str) -> None:
    if "@" in place:
        secret = secret.replace("/", "_")
    text = redact(f"asking failed: {place.format(secret)}\nnext line stays")
    assert secret not in text
    assert text.startswith("asking failed: ")
    assert text.endswith("\nnext line stays")
    assert HIDDEN in text


@pytest.mark.parametrize("form", FORMS)
@given(
    secret=st.text(alphabet=LETTERS, min_size=20, max_size=80), around=st.text(alphabet=" \"'<>()[]{},;\n", max_size=3)
)
def test_a_token_is_known_by_its_form_wherever_it_stands(form: str, secret: str, around: str) -> None:
    assert secret not in redact(f"it said{around or ' '}{form.format(secret)}{around} twice")


@given(
    secret=st.text(min_size=6, max_size=40),
    before=st.text(alphabet=" abc", max_size=10),
    after=st.text(alphabet=" abc", max_size=10),
)
def test_a_secret_that_is_known_is_hidden_as_it_stands(secret: str, before: str, after: str) -> None:
    # What remains may not contain it either, unless the mark itself does.
    assert secret in HIDDEN * 4 or secret not in redact(before + secret + after, secrets=[secret])


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/acme/tiny answered 404 for acme/tiny@main",
        "reading tokenizer.json of acme/tiny from http://127.0.0.1:8000/a/hf",
        "hf_transfer and hf_hub_download are names, not tokens",
        "the access token has a space, a line break or a character outside ASCII",
        "s3://bucket/prefix?not=secret&versionId=abc",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "write to someone@example.com about org/name@main",
        "tokenizer_config.json=ok tokenizer=bert",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_what_remains_of_a_url_still_says_where() -> None:
    shown = redact(f"https://user:{SECRET}@cdn.hf.co/repo/file?Expires=17&Signature={SECRET}&x=1")
    assert shown == "https://***@cdn.hf.co/repo/file?Expires=17&Signature=***&x=1"


def test_long_texts_are_redacted_in_reasonable_time() -> None:
    for text in ("a" * 200_000, "token-" * 40_000, "authorization" * 10_000, "https://" * 20_000, "'token':'" * 20_000):
        redact(text)


def logged(message: str, *arguments: object, secrets: tuple[str, ...] = (), error: BaseException | None = None) -> str:
    """What a handler with the filter writes; no logger is asked, as pytest listens to those."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter(secrets=secrets))
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    sinfo = None if error is None else f"Stack (most recent call last):\n  token={SECRET}"
    handler.handle(logging.LogRecord("tests", logging.WARNING, __file__, 1, message, arguments, exc_info, sinfo=sinfo))
    return stream.getvalue()


def test_the_filter_redacts_message_and_arguments() -> None:
    assert logged("asked %s with %d", f"https://x/?token={SECRET}", 3) == "asked https://x/?token=*** with 3\n"
    assert logged("plain %s", SECRET, secrets=(SECRET,)) == "plain ***\n"


def test_the_filter_redacts_an_exception_its_cause_and_the_stack() -> None:
    cause = OSError(f"url /k?X-Amz-Signature={SECRET}")
    error = AccessDenied(f"Authorization: Bearer {SECRET}")
    error.__cause__ = cause
    text = logged("it failed", error=error)
    assert SECRET not in text
    assert "OSError: url /k?X-Amz-Signature=***" in text
    assert "The above exception was the direct cause" in text
    assert "Stack (most recent call last)" in text


def test_a_log_line_whose_arguments_do_not_fit_is_shown_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "%d files" in logged("%d files", f"token={SECRET}")
    assert SECRET not in logged("%d files", f"token={SECRET}")
    assert capsys.readouterr().err == ""


def test_a_record_passes_every_handler_redacted_once_it_met_one() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "token=%s", (SECRET,), None)
    record.exc_info = (ValueError, ValueError(SECRET), None)
    assert RedactingFilter(secrets=[SECRET]).filter(record) is True
    assert SECRET not in logging.Formatter().format(record)
    assert SECRET not in repr(record.__dict__)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("give the job permissions: id-token: write (forks never get it)", True),
        ("id-token: writeable-secret-of-somebody", False),
        ("x-id-token: write", False),
    ],
)
def test_a_permission_is_no_secret_though_it_is_named_like_one(text: str, *, shown: bool) -> None:
    assert (redact(text) == text) == shown
