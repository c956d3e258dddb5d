"""What chora remembers: versions of content, drafts, outputs on disk, and probe samples."""

from chora.store.records import Draft, Output, Sample, Version
from chora.store.sqlite import SqliteStore

__all__ = ["Draft", "Output", "Sample", "SqliteStore", "Version"]
