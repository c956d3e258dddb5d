"""Pydantic AI: its toolset, made of ours, with the schemas that it sends to OpenAI and to Gemini."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from fastmcp_transport import transport
from pydantic_ai import ModelRetry, RunContext
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.test import TestModel
from pydantic_ai.profiles.google import GoogleJsonSchemaTransformer
from pydantic_ai.profiles.openai import OpenAIJsonSchemaTransformer
from pydantic_ai.usage import RunUsage

task = json.loads(sys.argv[1])


async def exercise():
    context = RunContext(deps=None, model=TestModel(), usage=RunUsage())
    async with MCPToolset(transport(task)) as toolset:
        tools = {name: tool.tool_def for name, tool in (await toolset.get_tools(context)).items()}

        async def call(tool, **given):
            try:
                return await toolset.direct_call_tool(tool, given)
            except ModelRetry as refusal:
                return str(refusal)

        def converted(transformer):
            return [
                {
                    "name": each.name,
                    "description": each.description,
                    "schema": transformer(each.parameters_json_schema, strict=None).walk(),
                }
                for each in tools.values()
            ]

        return {
            "converted": converted(OpenAIJsonSchemaTransformer),
            "converted for Gemini": converted(GoogleJsonSchemaTransformer),
            "hello": await call("hello_world", name=task["name"]),
            "generated": await call("generate_content", content_config_id="greeting", context={"name": task["name"]}),
            "resource": await toolset.read_resource("content://greeting"),
            "failure": await call("generate_content", content_config_id="nobody"),
        }


print(json.dumps(asyncio.run(exercise())))
