"""MCP on msgspec: what the messages mean, in both protocol eras."""
