"""How bytes reach chora: HTTP connections, HTTP and SSE endpoints, stdio."""
