"""`chora jobs`: work that outlived its call."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from chora.cli.run import json_option, load_settings, print_json, print_table, report_errors, run_async
from chora.cli.terminal import echo
from chora.store.records import Job


@click.command("jobs")
@click.argument("job_id", required=False)
@click.option("--cancel", is_flag=True, help="Stop the job; another process notices within seconds.")
@json_option
@click.pass_obj
@report_errors
def command(project: str | None, job_id: str | None, cancel: bool, as_json: bool) -> None:
    """List jobs, show one with its result, or cancel one."""
    from chora.engine.engine import open_engine

    if cancel and job_id is None:
        raise click.UsageError("--cancel needs the id of a job.")
    folder, loaded = load_settings(project)

    async def run() -> list[Job]:
        async with open_engine(folder, loaded.settings) as engine:
            if job_id is None:
                return engine.jobs.list_jobs()
            return [await engine.jobs.cancel_job(job_id) if cancel else engine.jobs.find_job(job_id)]

    jobs = run_async(run)
    shown = [describe_job(job) for job in jobs]
    if as_json:
        print_json({"success": True, "jobs": shown} if job_id is None else {"success": True, **shown[0]})
    elif job_id is not None and jobs[0].result and not cancel:
        echo(jobs[0].result)
    else:
        print_table(("Job", "Tool", "Status", "Progress", "Created"), [_row(job) for job in jobs])


def describe_job(job: Job) -> dict[str, Any]:
    """A job as in --json, with its result decoded."""
    facts: dict[str, Any] = msgspec.to_builtins(job)
    facts["result"] = None if job.result is None else msgspec.json.decode(job.result)
    del facts["key"]
    return facts


def _row(job: Job) -> tuple[str, ...]:
    progress = job.progress
    done = f"{progress['done']:g}/{progress['total']:g} {progress['message']}" if "done" in progress else ""
    return job.job_id, job.tool, job.status, done, job.created_at
