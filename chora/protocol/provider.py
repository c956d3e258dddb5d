"""What a server serves: the interface that `McpServer` expects of it. `chora/provider.py` is chora's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from chora.access import Scope
from chora.protocol.requesting_client import RequestingClient
from chora.protocol.types import Call, ResourceContents, ResourcePage, ToolAnswer


class ProvidedTool(Protocol):
    """A tool that a server offers."""

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> Scope:
        """The scope that a caller needs."""
        ...

    def describe(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        ...


class ResourceProvider(Protocol):
    """The resources of a server. A ChoraError that a method raises is answered as a JSON-RPC error."""

    def list_resources(self, cursor: str | None) -> ResourcePage:
        """The resources from a cursor on, as many as fit on a page."""
        ...

    def list_templates(self) -> Sequence[dict[str, Any]]:
        """The URI templates as `resources/templates/list` shows them."""
        ...

    def read_resource(self, uri: str) -> ResourceContents:
        """The contents of a resource."""
        ...

    def canonical_uri(self, uri: str) -> str:
        """The spelling of a URI under which changes of the resource are published."""
        ...

    def complete(self, template: str, parameter: str, arguments: dict[str, str], typed: str = "") -> Sequence[str]:
        """Values that a parameter of a template may have, given the other arguments and what was typed of it; a
        thousand at most."""
        ...


class PromptProvider(Protocol):
    """The prompts of a server."""

    def list_prompts(self) -> Sequence[dict[str, Any]]:
        """Every prompt as `prompts/list` shows it."""
        ...

    def get_prompt(
        self, name: str, arguments: dict[str, str], client: RequestingClient
    ) -> tuple[str, list[dict[str, Any]]]:
        """A prompt's description and its messages."""
        ...

    def complete(self, name: str, argument: str, typed: str = "") -> Sequence[str]:
        """The values that an argument may have."""
        ...


class Provider(Protocol):
    """Everything that a server serves."""

    instructions: str

    @property
    def tools(self) -> Mapping[str, ProvidedTool]:
        """The tools by name, in the order of their list."""
        ...

    @property
    def withheld(self) -> Mapping[str, str]:
        """Tools that exist but can't be called here, and why not, in a sentence."""
        ...

    @property
    def resources(self) -> ResourceProvider: ...

    @property
    def prompts(self) -> PromptProvider: ...

    async def call_tool(self, name: str, arguments: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        """Call a tool; its failure is an answer too."""
        ...

    def dependent_changes(self, uri: str) -> tuple[Iterable[str], bool]:
        """What else changes with a resource: other resources, and whether the list of resources does."""
        ...
