"""The only module that knows what a CI system says of a job, and which jobs are trusted to write a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRITING = frozenset({"push", "schedule", "workflow_dispatch", "repository_dispatch", "release"})
"""
GitHub's events that only people with write access to the repository, or its own clock, can cause.

Not among them: everything that a pull request, an issue or a comment starts, and ``workflow_run``, which runs with the
rights of the repository upon what a fork has made (GitHub Docs, "Events that trigger workflows").
"""
_CACHE_MODES = frozenset({"read", "none"})


@frozen
class Job:
    """
    Who runs: *may_write* says whether mode ``auto`` lets it write the store, and *why* in words for people.

    *outsiders* can cause it, and for their sake it may have no credentials; anywhere else that is a mistake of somebody's.
    """

    may_write: bool
    why: str
    outsiders: bool = False


def job_of(environ: Mapping[str, str], *, in_build: bool) -> Job:
    """The job whose variables are *environ*; outside of GitHub and GitLab, and of the build of an image, somebody at a machine of his own."""
    if in_build:
        return Job(may_write=False, why="the build of an image only reads, as it cannot know who may cause it")
    if environ.get("GITHUB_ACTIONS") == "true":
        return github_job(environ)
    if environ.get("GITLAB_CI") == "true":
        return gitlab_job(environ)
    return Job(may_write=True, why="this is no job of GitHub or GitLab")


def github_job(environ: Mapping[str, str]) -> Job:
    """
    The GitHub job of *environ* (GitHub Docs, "Default environment variables").

    Without an event nobody is trusted. ``ACTIONS_CACHE_MODE`` is what the workflow's ``cache-mode:`` allows for caches.
    """
    event = environ.get("GITHUB_EVENT_NAME") or "no event"
    if event not in _WRITING:
        return Job(may_write=False, why=f"a job of the event {event} only reads", outsiders=True)
    allowed = environ.get("ACTIONS_CACHE_MODE", "")
    if allowed in _CACHE_MODES:
        return Job(may_write=False, why=f"the workflow sets cache-mode: {allowed}", outsiders=True)
    return Job(may_write=True, why=f"a job of the event {event} may write")


def gitlab_job(environ: Mapping[str, str]) -> Job:
    """The GitLab job of *environ* (GitLab Docs, "Predefined CI/CD variables"): protected branches and tags write, nobody else."""
    source = environ.get("CI_PIPELINE_SOURCE") or "unknown"
    if environ.get("CI_MERGE_REQUEST_IID") or source in {"merge_request_event", "external_pull_request_event"}:
        return Job(may_write=False, why="a job of a merge request only reads", outsiders=True)
    ref = environ.get("CI_COMMIT_REF_NAME") or "unknown"
    if environ.get("CI_COMMIT_REF_PROTECTED") != "true":
        return Job(may_write=False, why=f"{ref} is not protected, and a job of it only reads", outsiders=True)
    return Job(may_write=True, why=f"a job of the protected {ref} may write")
