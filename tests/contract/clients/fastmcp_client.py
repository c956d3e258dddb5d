"""FastMCP's client, in an environment of its own: what many Python hosts are built on."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp_transport import transport

task = json.loads(sys.argv[1])


def as_sent(model):
    """What the server sent, of what became of it."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def exercise():
    progress, updated, notified = [], [], asyncio.Event()

    async def note_progress(done, total, message):
        progress.append(message)

    async def note_message(message):
        params = getattr(getattr(message, "root", message), "params", None)
        if (uri := getattr(params, "uri", None)) is not None:
            updated.append(str(uri))
            notified.set()

    async with Client(transport(task), message_handler=note_message) as server:
        opened = server.initialize_result  # FastMCP 3 says there what was negotiated, 4 in the session
        revision = getattr(server.session, "protocol_version", None) or opened.protocolVersion
        results = {"revision": revision}
        results["tools"] = [as_sent(tool) for tool in await server.list_tools()]
        results["hello"] = (await server.call_tool("hello_world", {"name": task["name"]})).structured_content
        arguments = {"content_config_id": "greeting", "context": {"name": task["name"]}}
        generated = await server.call_tool("generate_content", arguments)
        results["generated"] = generated.structured_content
        results["same_as_text"] = json.loads(generated.content[0].text) == generated.structured_content
        results["resource"] = [as_sent(each) for each in await server.read_resource("content://greeting")]
        prompt = await server.get_prompt("review-content", {"content_id": "greeting"})
        blocks = [message.content for message in prompt.messages]
        results["prompt"] = [[each.type, each.resource.text if each.type == "resource" else None] for each in blocks]
        failure = await server.call_tool("generate_content", {"content_config_id": "nobody"}, raise_on_error=False)
        results["failure"] = failure.structured_content["error"] if failure.is_error else None
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
