"""FastMCP's client, in an environment of its own: what many Python hosts are built on."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport

task = json.loads(sys.argv[1])


def transport():
    if task["transport"] == "stdio":
        command, *arguments = task["command"]
        return StdioTransport(command, arguments, env=task["environment"])
    return (SSETransport if task["transport"] == "sse" else StreamableHttpTransport)(task["url"])


async def exercise():
    progress, updated, notified = [], [], asyncio.Event()

    async def note_progress(done, total, message):
        progress.append(message)

    async def note_message(message):
        params = getattr(getattr(message, "root", message), "params", None)
        if (uri := getattr(params, "uri", None)) is not None:
            updated.append(str(uri))
            notified.set()

    async with Client(transport(), message_handler=note_message) as server:
        results = {"revision": server.session.protocol_version}
        results["tools"] = len(await server.list_tools())
        results["hello"] = (await server.call_tool("hello_world", {"name": task["name"]})).structured_content["message"]
        arguments = {"content_config_id": "greeting", "context": {"name": task["name"]}}
        generated = await server.call_tool("generate_content", arguments)
        results["generated"] = generated.structured_content["content"]
        results["same_as_text"] = json.loads(generated.content[0].text) == generated.structured_content
        results["resource"] = (await server.read_resource("content://greeting"))[0].text
        prompt = await server.get_prompt("review-content", {"content_id": "greeting"})
        results["prompt"] = [message.content.type for message in prompt.messages]
        failure = await server.call_tool("generate_content", {"content_config_id": "nobody"}, raise_on_error=False)
        results["failure"] = failure.structured_content["error"]["code"] if failure.is_error else None
        try:
            await server.call_tool("make_coffee", {})
            results["unknown"] = None
        except Exception as error:
            results["unknown"] = getattr(getattr(error, "error", None), "code", repr(error))
        await server.call_tool(
            "assemble_artifact", {"artifact_config_id": "hello", "force": True}, progress_handler=note_progress
        )
        results["progress"] = progress
    return results


print(json.dumps(asyncio.run(exercise())))
