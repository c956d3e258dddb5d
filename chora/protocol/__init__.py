"""MCP on msgspec: what the messages mean, in both protocol eras.

server.py               `McpServer`: the life of a message, from its bytes to the encoded answer
envelope.py             parses a message, its parameters and its revision
request.py              a request that is being answered
tool_calls.py, resource_methods.py, prompt_methods.py, subscriptions.py
                        the methods; each class holds what its methods need of the server
requesting_client.py    progress, log messages and questions to the client of a request
session.py              what the server knows of a client
broadcast.py            changes, published to queues of notifications
wire.py, types.py       the messages, and the values that providers return
provider.py             the interface of what is served
"""
