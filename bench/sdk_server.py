"""One peer: one `hello_world` on the Python SDK's low-level server, over stdio or on uvicorn.

python -m bench.sdk_server stdio
python -m bench.sdk_server http PORT
python -m bench.sdk_server sse PORT
"""

import asyncio
import json
import sys

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

TOOL = types.Tool(
    name="hello_world",
    description="Check that the server answers.",
    input_schema={"type": "object", "properties": {"name": {"type": "string"}}},
    output_schema={"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
)


async def list_tools(context: object, params: object) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[TOOL])


async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
    answer = {"message": f"Hello, {(params.arguments or {}).get('name', 'World')}!"}
    text = types.TextContent(type="text", text=json.dumps(answer))
    return types.CallToolResult(content=[text], structured_content=answer)


def main() -> None:
    server = Server("peer", on_list_tools=list_tools, on_call_tool=call_tool)
    if sys.argv[1] == "stdio":

        async def run() -> None:
            async with stdio_server() as (incoming, outgoing):
                await server.run(incoming, outgoing, server.create_initialization_options())

        asyncio.run(run())
    else:
        import uvicorn  # these would only delay the start over stdio
        from mcp.server.mcpserver import MCPServer

        modern = sys.argv[1] == "http"
        app = server.streamable_http_app(json_response=True) if modern else MCPServer("peer").sse_app()
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")


if __name__ == "__main__":
    main()
