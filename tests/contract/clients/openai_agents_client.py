"""The OpenAI Agents SDK: its function tools, made of ours for strict mode where that is possible."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from agents.mcp import MCPServerSse, MCPServerStdio, MCPServerStreamableHttp, MCPUtil

task = json.loads(sys.argv[1])


def make_server():
    if task["transport"] == "stdio":
        command, *arguments = task["command"]
        params = {"command": command, "args": arguments, "env": task["environment"]}
        return MCPServerStdio(params, client_session_timeout_seconds=60)
    kind = MCPServerSse if task["transport"] == "sse" else MCPServerStreamableHttp
    return kind({"url": task["url"]}, client_session_timeout_seconds=60)


async def exercise():
    async with make_server() as server:
        tools = await server.list_tools()
        functions = [MCPUtil.to_function_tool(tool, server, convert_schemas_to_strict=True) for tool in tools]
        hello = await server.call_tool("hello_world", {"name": task["name"]})
        arguments = {"content_config_id": "greeting", "context": {"name": task["name"]}}
        generated = await server.call_tool("generate_content", arguments)
        failure = await server.call_tool("generate_content", {"content_config_id": "nobody"})
        try:
            await server.call_tool("make_coffee", {})
            unknown = None
        except Exception as error:
            unknown = getattr(getattr(error, "error", None), "code", repr(error))
        prompt = await server.get_prompt("review-content", {"content_id": "greeting"})
        resource = await server.read_resource("content://greeting")
        blocks = [message.content for message in prompt.messages]
        return {
            "converted": [
                {
                    "name": each.name,
                    "description": each.description,
                    "schema": each.params_json_schema,
                    "strict": each.strict_json_schema,
                }
                for each in functions
            ],
            "hello": hello.structured_content,
            "generated": generated.structured_content,
            "same_as_text": json.loads(generated.content[0].text) == generated.structured_content,
            "resource": [each.model_dump(mode="json", by_alias=True, exclude_unset=True) for each in resource.contents],
            "prompt": [[each.type, each.resource.text if each.type == "resource" else None] for each in blocks],
            "failure": failure.structured_content["error"] if failure.is_error else None,
            "unknown": unknown,
        }


print(json.dumps(asyncio.run(exercise())))
