"""Importing chora-compose projects, and converting configs of its other dialects."""
