"""Jobs: their state, progress and result."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from chora.errors import JobNotFound
from chora.events import redact_secrets
from chora.protocol.types import Resource, ResourceStat
from chora.resources.family import JSON, format_json
from chora.resources.uris import Arguments

if TYPE_CHECKING:
    from chora.resources.provider import ProjectResources

LISTED_JOBS_LIMIT = 100
"""The newest jobs are listed; any can be read."""


def read_job(resources: ProjectResources, arguments: Arguments) -> str:
    job = resources.engine.store.job(arguments["job_id"])
    if job is None:
        raise JobNotFound(
            f"There is no job {arguments['job_id']!r}.",
            "resources/list shows the newest ones.",
            job_id=arguments["job_id"],
        )
    record: dict[str, Any] = msgspec.to_builtins(job)
    result = None if job.result is None else msgspec.json.decode(job.result)
    return format_json(record | {"arguments": redact_secrets(job.arguments), "result": result})


def job_ids(resources: ProjectResources, arguments: Arguments) -> list[str]:
    return [job.job_id for job in resources.engine.store.jobs()]


def list_jobs(resources: ProjectResources) -> Iterator[Resource]:
    for job in islice(resources.engine.store.jobs(), LISTED_JOBS_LIMIT):
        stat = ResourceStat(modified=job.updated_at)
        about = f"{job.tool}, {job.status}"
        yield Resource(f"job://{quote(job.job_id, safe='')}", job.job_id, about, JSON, lambda known=stat: known)
