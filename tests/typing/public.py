"""Never run, only type-checked: what ``from ci_modelcache import ...`` gives keeps its types, without a cast."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from ci_modelcache import (
    Deadline,
    FetchReport,
    HttpSession,
    HubCacheLayout,
    HubEndpoint,
    ModelCache,
    ModelRef,
    PlainLayout,
    RepoType,
    RestoreOptions,
    RestoreReport,
    RetryPolicy,
    SaveReport,
    Selection,
    Step,
    Token,
    VerifyReport,
    errors,
    fetch,
    open_store,
    restore,
    save,
    verify,
)


def a_step_of_a_pipeline(token: str | None) -> str:
    """The README's program, with a token, and with what may go wrong told apart by type."""
    retry = RetryPolicy(deadline=Deadline(600))
    cache = ModelCache(open_store("s3://bucket/prefix", retry=retry), retry=retry)
    hub = HubEndpoint(
        "https://huggingface.co",
        session=HttpSession(),
        token=None if token is None else Token(token),
        retry=retry,
    )
    step = Step(Path("state"), retry=retry)
    ref = ModelRef.parse("org/name@v1.0", type=RepoType.MODEL)
    try:
        report = restore(ref, PlainLayout(Path("model")), cache=cache, upstream=hub, step=step)
    except errors.RateLimited as error:
        assert_type(error.retry_after, float | None)
        raise
    except errors.DigestMismatch as error:
        assert_type((error.expected, error.actual), tuple[str, str])
        raise
    except errors.ModelCacheError as error:
        assert_type((error.message, error.hint, error.exit_code), tuple[str, str | None, int])
        raise
    assert_type(report, RestoreReport)
    assert_type((report.result, report.size, report.mended), tuple[str, int, tuple[str, ...]])
    return report.digest


def the_other_verbs(cache: ModelCache, hub: HubEndpoint, step: Step) -> None:
    ref, part = ModelRef("org/name"), Selection(include=["*.json"], exclude=["onnx/*"])
    options = RestoreOptions(selection=part, fail_on_miss=True)
    layout = HubCacheLayout(Path("hub"), ref.repo, RepoType.MODEL)
    assert_type(restore(ref, layout, cache=cache, upstream=hub, step=step, options=options), RestoreReport)
    assert_type(fetch(ref, selection=part, cache=cache, upstream=hub, step=step), FetchReport)
    assert_type(save(Path("out"), ref, host=hub.host, selection=part, cache=cache, step=step), SaveReport)
    assert_type(verify(cache.snapshots(), cache=cache, step=step), VerifyReport)


def a_name_that_does_not_exist_is_seen() -> None:
    from ci_modelcache import Restorer  # type: ignore[attr-defined]  # a lazy export must not make every name valid  # noqa: PLC0415  # as above

    del Restorer
