"""What a server offers, as the protocol asks for it; `project.py` is what chora offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from chora.access import Scope
from chora.protocol.requesting_client import RequestingClient
from chora.protocol.types import Call, ResourceContents, ResourcePage, ToolAnswer


class ProvidedTool(Protocol):
    """One tool."""

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> Scope:
        """What a caller has to be allowed."""
        ...

    def describe(self) -> dict[str, Any]:
        """The tool as `tools/list` shows it."""
        ...


class ResourceProvider(Protocol):
    """What can be read. Each method may raise a ChoraError, which is told as an error of the protocol."""

    def page(self, cursor: str | None) -> ResourcePage:
        """Some of the resources there are."""
        ...

    def templates(self) -> Sequence[dict[str, Any]]:
        """The URI templates as `resources/templates/list` shows them."""
        ...

    def read(self, uri: str) -> ResourceContents:
        """What a resource says."""
        ...

    def canonical(self, uri: str) -> str:
        """The spelling under which changes of a resource are told."""
        ...

    def complete(self, template: str, parameter: str, settled: dict[str, str]) -> Sequence[str]:
        """The values that a parameter of a template may have."""
        ...


class PromptProvider(Protocol):
    """What a person can have a model do."""

    def all(self) -> Sequence[dict[str, Any]]:
        """Every prompt as `prompts/list` shows it."""
        ...

    def get(self, name: str, arguments: dict[str, str], peer: RequestingClient) -> tuple[str, list[dict[str, Any]]]:
        """A prompt's description and its messages."""
        ...

    def complete(self, name: str, argument: str) -> Sequence[str]:
        """The values that an argument may have."""
        ...


class Provider(Protocol):
    """All that a server offers."""

    instructions: str

    @property
    def tools(self) -> Mapping[str, ProvidedTool]:
        """The tools by name, in the order of their list."""
        ...

    @property
    def withheld(self) -> Mapping[str, str]:
        """Tools that there are but not here, and why not, in a sentence."""
        ...

    @property
    def resources(self) -> ResourceProvider: ...

    @property
    def prompts(self) -> PromptProvider: ...

    async def call(self, name: str, arguments: bytes | msgspec.Raw, call: Call) -> ToolAnswer:
        """Call a tool that there is; its failure is an answer too."""
        ...

    def touched(self, uri: str) -> tuple[Iterable[str], bool]:
        """What else changes when a resource does: other resources, and whether the list of resources does."""
        ...
