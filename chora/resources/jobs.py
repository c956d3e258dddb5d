"""Jobs: their state, progress and result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec

from chora.errors import JobNotFound
from chora.events import redact_secrets
from chora.protocol.types import Resource, ResourceStat
from chora.resources.family import JSON, Listed, ResourceContext, format_json
from chora.resources.uris import Arguments

LISTED_JOBS_LIMIT = 100
"""The newest jobs are listed; any can be read."""


def read_job(context: ResourceContext, arguments: Arguments) -> str:
    job = context.engine.store.job(arguments["job_id"])
    if job is None:
        raise JobNotFound(
            f"There is no job {arguments['job_id']!r}.",
            "resources/list shows the newest ones.",
            job_id=arguments["job_id"],
        )
    record: dict[str, Any] = msgspec.to_builtins(job)
    result = None if job.result is None else msgspec.json.decode(job.result)
    return format_json(record | {"arguments": redact_secrets(job.arguments), "result": result})


def job_ids(context: ResourceContext, arguments: Arguments) -> list[str]:
    return [job.job_id for job in context.engine.store.jobs(LISTED_JOBS_LIMIT)]


def list_jobs(context: ResourceContext, after: str) -> Iterator[Listed]:
    found = [job for job in context.engine.store.jobs(LISTED_JOBS_LIMIT) if job.job_id > after]
    for job in sorted(found, key=lambda job: job.job_id):
        stat = ResourceStat(modified=job.updated_at)
        about = f"{job.tool}, {job.status}"
        uri = f"job://{quote(job.job_id, safe='')}"
        yield job.job_id, Resource(uri, job.job_id, about, JSON, lambda known=stat: known)
