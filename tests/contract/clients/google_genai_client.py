"""google-genai: a session is given to the model as its tools; each is converted to a declaration of Gemini's API."""

# pyright: basic, reportMissingImports=false

import asyncio
import json
import sys

from fastmcp import Client
from fastmcp_transport import transport
from google.genai._mcp_utils import mcp_to_gemini_tools

task = json.loads(sys.argv[1])


async def exercise():
    async with Client(transport(task)) as server:
        declarations = [each.function_declarations[0] for each in mcp_to_gemini_tools(await server.list_tools())]
    return {
        "converted": [
            {
                "name": each.name,
                "description": each.description,
                "schema": each.parameters.model_dump(mode="json", by_alias=True, exclude_none=True),
            }
            for each in declarations
        ]
    }


print(json.dumps(asyncio.run(exercise())))
