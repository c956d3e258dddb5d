"""The Python SDK's client, through `chora.client`: `auto` tries the modern era first, `legacy` does the handshake."""

import json
import sys
import warnings
from typing import Any

import trio

from chora import client

task: dict[str, Any] = json.loads(sys.argv[1])


def as_sent(model: Any) -> dict[str, Any]:
    """What the server sent, of what became of it."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def exercise() -> dict[str, Any]:
    reported: list[str | None] = []
    notified = trio.Event()
    updated: list[str] = []

    async def note_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append(message)

    async def note_update(message: Any) -> None:
        params = getattr(getattr(message, "root", message), "params", None)
        if (uri := getattr(params, "uri", None)) is not None:
            updated.append(str(uri))
            notified.set()

    async with client.connect(task.get("url") or task["command"], mode=task["mode"]) as server:
        results: dict[str, Any] = {"revision": server.protocol_version}
        results["tools"] = [as_sent(tool) for tool in (await server.list_tools()).tools]
        results["hello"] = (await server.call_tool("hello_world", {"name": task["name"]})).structured_content

        async def generate(name: str) -> Any:
            arguments = {"content_config_id": "greeting", "context": {"name": name}}
            return await server.call_tool("generate_content", arguments)

        generated = await generate(task["name"])
        results["generated"] = generated.structured_content
        results["same_as_text"] = json.loads(generated.content[0].text) == generated.structured_content
        results["resource"] = [as_sent(each) for each in (await server.read_resource("content://greeting")).contents]
        prompt: Any = await server.get_prompt("review-content", {"content_id": "greeting"})
        blocks = [message.content for message in prompt.messages]
        results["prompt"] = [[each.type, each.resource.text if each.type == "resource" else None] for each in blocks]
        failure = await server.call_tool("generate_content", {"content_config_id": "nobody"})
        results["failure"] = (failure.structured_content or {})["error"] if failure.is_error else None
        try:
            await server.call_tool("make_coffee", {})
            results["unknown"] = None
        except Exception as error:
            results["unknown"] = getattr(getattr(error, "error", None), "code", repr(error))
        assemble = {"artifact_config_id": "hello", "force": True}
        await server.call_tool("assemble_artifact", assemble, progress_callback=note_progress)
        results["progress"] = reported
        if server.protocol_version >= "2026":
            async with server.listen(resource_subscriptions=["content://greeting"]) as subscription:
                await generate(f"{task['name']} again")
                with trio.fail_after(10):
                    news: Any = await anext(subscription)
                results["updated"] = news.uri
        else:
            server.session._message_handler = note_update
            with warnings.catch_warnings(action="ignore"):
                await server.subscribe_resource("content://greeting")  # pyright: ignore[reportDeprecated]
            await generate(f"{task['name']} again")
            with trio.fail_after(10):
                await notified.wait()
            results["updated"] = updated[0]
        return results


print(json.dumps(trio.run(exercise)))
