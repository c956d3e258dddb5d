"""What chora remembers: versions of content, drafts, outputs on disk, traces, jobs, costs, measurements, events."""

from chora.store.records import (
    Completion,
    Cost,
    Draft,
    Event,
    Job,
    Output,
    Record,
    Sample,
    SampleCounts,
    Trace,
    Version,
    VersionInfo,
)
from chora.store.sqlite import SqliteStore
from chora.store.store import TRACES_KEPT, Store

__all__ = [
    "TRACES_KEPT",
    "Completion",
    "Cost",
    "Draft",
    "Event",
    "Job",
    "Output",
    "Record",
    "Sample",
    "SampleCounts",
    "SqliteStore",
    "Store",
    "Trace",
    "Version",
    "VersionInfo",
]
