"""An example of a call for each tool."""

from __future__ import annotations

from typing import Any

_COLLECTION = {"collection_config_path": "handbook"}

TOOL_EXAMPLES: dict[str, dict[str, Any]] = {
    "hello_world": {"name": "Ada"},
    "generate_content": {"content_config_id": "release-notes", "context": {"version": "1.2"}},
    "preview_generation": {"content_config_id": "release-notes", "show_metadata": True},
    "regenerate_content": {"content_config_id": "release-notes", "reason": "the source has changed"},
    "batch_generate": {"content_ids": ["intro", "release-notes"], "shared_context": {"version": "1.2"}},
    "assemble_artifact": {"artifact_config_id": "readme", "dry_run": True},
    "generate_collection": {**_COLLECTION, "force_members": ["readme"]},
    "list_collection_members": {**_COLLECTION, "recursive": True},
    "check_collection_cache": _COLLECTION,
    "draft_config": {
        "config_type": "content",
        "config_data": {
            "type": "content",
            "id": "intro",
            "schemaRef": {"id": "content-schema", "version": "3.1"},
            "metadata": {"description": "The introduction", "version": "1.0.0"},
            "generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "Hello, {{ name }}!"}]},
        },
    },
    "test_config": {"draft_id": "draft-20261122T101530-7f3a2b", "context": {"name": "Ada"}},
    "save_config": {"draft_id": "draft-20261122T101530-7f3a2b", "config_id": "intro"},
    "modify_config": {"config_id": "intro", "updates": {"metadata": {"description": "How it begins"}}},
    "list_generators": {"generator_type": "builtin"},
    "list_content_configs": {"filter_pattern": "api-*"},
    "list_artifact_configs": {"filter_pattern": "*-guide", "limit": 20},
    "list_content": {"filter": {"generated": False}, "sort": "modified"},
    "list_artifacts": {"filter": {"type": "documentation"}, "offset": 50},
    "trace_dependencies": {"artifact_config_id": "readme"},
    "validate_content": {
        "content_or_config_id": "intro",
        "validation_rules": [{"type": "length", "config": {"min": 100}}],
    },
    "validate_collection_config": _COLLECTION,
    "check_freshness": _COLLECTION,
    "cleanup_ephemeral": {"retention": {"keep_versions": 3}, "dry_run": True},
    "delete_content": {"content_id": "intro", "preserve_metadata": True},
    "get_config": {"config_id": "intro"},
    "get_text": {"content_id": "intro", "offset": 16_384},
    "list_collections": {"limit": 20},
    "list_edits": {"path": "outputs/readme.md"},
    "settle_edit": {"path": "outputs/readme.md", "action": "accept"},
}
