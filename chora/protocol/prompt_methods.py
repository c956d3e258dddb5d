"""The methods of prompts, and the completion of arguments of prompts and URI templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from chora.protocol import wire
from chora.protocol.provider import Provider
from chora.protocol.request import McpRequest, cacheable
from chora.protocol.requesting_client import StateSigner
from chora.protocol.types import VALUES_LIMIT
from chora.protocol.wire import RpcError

COMPLETION_LIMIT = 100
"""Values in one completion."""


class PromptMethods:
    """Answers the methods of prompts, and `completion/complete`.

    Args:
        provider: whose prompts and resources.
        state_signer: signs the state of questions to clients.
    """

    def __init__(self, provider: Provider, state_signer: StateSigner) -> None:
        self._provider = provider
        self._state_signer = state_signer

    def list_prompts(self, request: McpRequest) -> dict[str, Any]:
        left_out = () if request.revision.structured else ("title",)
        prompts = [
            {key: value for key, value in prompt.items() if key not in left_out}
            for prompt in self._provider.prompts.list_prompts()
        ]
        return {"prompts": prompts} | cacheable(request.revision)

    def get_prompt(self, request: McpRequest) -> dict[str, Any]:
        params = request.params
        if params.name is UNSET:
            raise RpcError(wire.INVALID_PARAMS, "prompts/get needs the name of a prompt")
        arguments = b"{}" if params.arguments is UNSET or bytes(params.arguments) == b"null" else params.arguments
        try:
            texts = wire.decode_texts(arguments)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The arguments of a prompt are texts by name: {error}") from None
        description, messages = self._provider.prompts.get_prompt(
            params.name, texts, request.make_client(params.name, self._state_signer)
        )
        if not request.revision.structured:
            messages = [_without_resource_link(message) for message in messages]
        return {"description": description, "messages": messages}

    def complete(self, request: McpRequest) -> dict[str, Any]:
        try:
            completion = wire.decode_complete(request.raw)
        except wire.DECODE_ERRORS as error:
            raise RpcError(wire.INVALID_PARAMS, f"The parameters of completion/complete don't fit: {error}") from None
        typed = completion.argument.value
        if completion.ref.type == "ref/prompt":
            values = self._provider.prompts.complete(completion.ref.name, completion.argument.name, typed)
        else:
            known_arguments = (completion.context.arguments if completion.context else None) or {}
            values = self._provider.resources.complete(
                completion.ref.uri, completion.argument.name, known_arguments, typed
            )
        matching = _matching_values(values, typed)
        shown = matching[:COMPLETION_LIMIT]
        if len(values) >= VALUES_LIMIT:  # others were not looked at
            return {"completion": {"values": shown, "hasMore": True}}
        return {"completion": {"values": shown, "total": len(matching), "hasMore": len(matching) > len(shown)}}


def _without_resource_link(message: dict[str, Any]) -> dict[str, Any]:
    """A message for revisions without resource links: the link as a sentence."""
    content = message["content"]
    if content["type"] != "resource_link":
        return message
    return {**message, "content": {"type": "text", "text": f"See also the resource {content['uri']}."}}


def _matching_values(values: Sequence[str], typed: str) -> list[str]:
    """The values that match what was typed: those that begin with it, then those that contain it."""
    wanted = typed.casefold()
    begin = [value for value in values if value.casefold().startswith(wanted)]
    contain = [value for value in values if wanted in value.casefold() and not value.casefold().startswith(wanted)]
    return begin + contain
