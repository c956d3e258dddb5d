"""Parsing configs: raw documents, tolerantly read, into the Structs of `chora.model`.

parse          the whole: copy -> refuse dialects -> normalise -> check -> convert, or every error at once
plain_data     a bounded copy of plain data
dialects       other dialects of chora-compose, refused with what to write
deviations     known deviations, normalised with a warning
normalize      field by field: spellings, nulls, unknown keys, sources
cross_checks   what no schema can express
schema_errors  everything in which a document doesn't fit its JSON Schema
issues         what is found, and how it is worded
"""

from chora.config_parsing.issues import ISSUES_LIMIT, Issue
from chora.config_parsing.parse import ParsedConfig, check_expected_id, parse_config

__all__ = ["ISSUES_LIMIT", "Issue", "ParsedConfig", "check_expected_id", "parse_config"]
