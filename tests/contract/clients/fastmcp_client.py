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


async def visit():
    progress, updated, heard = [], [], asyncio.Event()

    async def note_progress(done, total, message):
        progress.append(message)

    async def note_message(message):
        params = getattr(getattr(message, "root", message), "params", None)
        if (uri := getattr(params, "uri", None)) is not None:
            updated.append(str(uri))
            heard.set()

    async with Client(transport(), message_handler=note_message) as server:
        told = {"revision": server.session.protocol_version}
        told["tools"] = len(await server.list_tools())
        told["hello"] = (await server.call_tool("hello_world", {"name": task["name"]})).structured_content["message"]
        arguments = {"content_config_id": "greeting", "context": {"name": task["name"]}}
        generated = await server.call_tool("generate_content", arguments)
        told["generated"] = generated.structured_content["content"]
        told["same_as_text"] = json.loads(generated.content[0].text) == generated.structured_content
        told["resource"] = (await server.read_resource("content://greeting"))[0].text
        prompt = await server.get_prompt("review-content", {"content_id": "greeting"})
        told["prompt"] = [message.content.type for message in prompt.messages]
        failure = await server.call_tool("generate_content", {"content_config_id": "nobody"}, raise_on_error=False)
        told["failure"] = failure.structured_content["error"]["code"] if failure.is_error else None
        try:
            await server.call_tool("make_coffee", {})
            told["unknown"] = None
        except Exception as error:
            told["unknown"] = getattr(getattr(error, "error", None), "code", repr(error))
        await server.call_tool(
            "assemble_artifact", {"artifact_config_id": "hello", "force": True}, progress_handler=note_progress
        )
        told["progress"] = progress
    return told


print(json.dumps(asyncio.run(visit())))
