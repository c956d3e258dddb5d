"""LangChain's adapters: its tools, made of ours, are called as an agent calls them."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.resources import load_mcp_resources
from langchain_mcp_adapters.tools import load_mcp_tools

task = json.loads(sys.argv[1])
command, *arguments = task["command"]
CONNECTIONS = {
    "http": {"transport": "streamable_http", "url": task["url"]},
    "sse": {"transport": "sse", "url": task["url"]},
    "stdio": {"transport": "stdio", "command": command, "args": arguments, "env": task["environment"]},
}


async def exercise():
    client = MultiServerMCPClient({"chora": CONNECTIONS[task["transport"]]})
    async with client.session("chora") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(tool, **given):
            """What a model is told, and what goes past it."""
            message = await tools[tool].ainvoke({"type": "tool_call", "id": "1", "name": tool, "args": given})
            text = "".join(block["text"] for block in message.content if block["type"] == "text")
            return text, (message.artifact or {}).get("structured_content")

        offered = [convert_to_openai_tool(tool)["function"] for tool in tools.values()]
        _, hello = await call("hello_world", name=task["name"])
        context = {"name": task["name"]}
        generated_text, generated = await call("generate_content", content_config_id="greeting", context=context)
        failure, _ = await call("generate_content", content_config_id="nobody")
        (blob,) = await load_mcp_resources(session, uris=["content://greeting"])
        return {
            "converted": [
                {"name": each["name"], "description": each["description"], "schema": each["parameters"]}
                for each in offered
            ],
            "hello": hello,
            "generated": generated,
            "same_as_text": json.loads(generated_text) == generated,
            "resource": [{"uri": str(blob.metadata["uri"]), "mimeType": blob.mimetype, "text": blob.as_string()}],
            "failure": failure,
        }


print(json.dumps(asyncio.run(exercise())))
