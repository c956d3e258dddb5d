"""Fixtures of the tools' tests: a content that greets, drafts, and a small collection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import Asking, Project, artifact, child, content


@pytest.fixture
def greeting(project: Project) -> Project:
    """`greeting` greets the name in the context; `sheet` is an artifact of it."""
    pattern = {"type": "template_fill", "template": "Hello {{ name }}!"}
    project.save(content("greeting", pattern=pattern), artifact("sheet", [child("greeting")]))
    return project


@pytest.fixture
def drafted(ask: Asking) -> Callable[[dict[str, Any]], Awaitable[str]]:
    """Draft a config and return the draft's id."""

    async def draft(document: dict[str, Any]) -> str:
        return (await ask("draft_config", config_type=document["type"], config_data=document))["draft_id"]

    return draft
