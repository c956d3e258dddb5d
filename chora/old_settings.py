"""The settings of chora-compose: its names in the environment, and the values that its projects rely on."""

from __future__ import annotations

from collections.abc import Callable

LEGACY_VALUES: dict[str, str] = {"templates.undefined": "lenient", "configs.rules": "chora-compose"}
"""What holds in a project without `chora.toml`; an imported project has them in its own."""

OLD_NAMES: dict[str, str] = {
    "LOG_LEVEL": "log.level",
    "CHORA_COMPOSE_LOG_LEVEL": "log.level",
    "MCP_LOG_LEVEL": "log.level",
    "CHORA_COMPOSE_CONFIG_DIR": "paths.configs",
    "CHORA_COMPOSE_MCP_HOST": "http.host",
    "CHORA_COMPOSE_MCP_PORT": "http.port",
    "MCP_SERVER_HOST": "http.host",
    "MCP_SERVER_PORT": "http.port",
    "CHORA_EVENTS_OUTPUT": "paths.events",
    "CHORA_TELEMETRY_PATH": "paths.events",
    "LOG_FILE": "log.file",
    "CHORA_DEBUG": "log.level",
    "PARALLEL_WORKERS": "render.workers",
    "CHORA_EPHEMERAL_PATH": "storage.folder",
    "CHORA_RETENTION_DAYS": "storage.retention_days",
}
"""Environment names of chora-compose that still work; a later row overrides an earlier one."""

OLD_MEANINGS: dict[str, Callable[[str], str]] = {
    "CHORA_TELEMETRY_PATH": lambda text: (
        text if not text or text.endswith(".jsonl") else f"{text.rstrip('/')}/events.jsonl"
    ),
    "CHORA_DEBUG": lambda text: "" if text.lower() in ("", "0", "false", "no", "off") else "DEBUG",
}
"""What the value of an old name means, where it isn't the setting's own; empty for nothing."""
SUCCEEDED_NAMES = {
    "CHORA_COMPOSE_CACHE_DIR": "what was cached there is in the store, which the setting storage.path names",
    "CHORA_COMPOSE_MCP_URL": "name the server with `chora connect URL` or `chora call --url URL`",
}
"""Environment names of chora-compose that mean nothing any more, and what came in their place."""
OLD_BACKENDS = {"ephemeral": "memory"}
"""Storage backends of chora-compose by their names, and what they are called here."""
