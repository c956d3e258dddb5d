"""How long both upstream transports wait, in seconds."""

from __future__ import annotations

NEW_SESSION_TIMEOUT = 30.0
"""For the server to open a session in place of one that it no longer knows."""
NOTIFICATION_TIMEOUT = 30.0
"""For the server to accept a notification."""
