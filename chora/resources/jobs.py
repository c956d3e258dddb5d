"""Jobs: their state, progress and result."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import quote

import msgspec

from chora.errors import JobNotFound
from chora.events import redact_secrets
from chora.protocol.types import Resource, ResourceStat
from chora.resources.family import JSON, ResourceContext, format_json
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
    return [job.job_id for job in context.engine.store.jobs()]


def list_jobs(context: ResourceContext) -> Iterator[Resource]:
    for job in islice(context.engine.store.jobs(), LISTED_JOBS_LIMIT):
        stat = ResourceStat(modified=job.updated_at)
        about = f"{job.tool}, {job.status}"
        yield Resource(f"job://{quote(job.job_id, safe='')}", job.job_id, about, JSON, lambda known=stat: known)
