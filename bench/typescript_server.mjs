// The other peer: one `hello_world` on the TypeScript SDK, on Node.
//
// node bench/typescript_server.mjs stdio
// node bench/typescript_server.mjs http PORT
// node bench/typescript_server.mjs sse PORT

import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const [transport, port] = process.argv.slice(2);
const require = createRequire(new URL('../tests/contract/', import.meta.url));

const TOOL = {
    name: 'hello_world',
    description: 'Check that the server answers.',
    inputSchema: { type: 'object', properties: { name: { type: 'string' } } },
    outputSchema: { type: 'object', properties: { message: { type: 'string' } }, required: ['message'] }
};

function callTool({ params }) {
    const answer = { message: `Hello, ${params.arguments?.name ?? 'World'}!` };
    return { content: [{ type: 'text', text: JSON.stringify(answer) }], structuredContent: answer };
}

function makeServer() {
    const { Server } = require('@modelcontextprotocol/server');
    const server = new Server({ name: 'peer', version: '1' }, { capabilities: { tools: {} } });
    server.setRequestHandler('tools/list', () => ({ tools: [TOOL] }));
    server.setRequestHandler('tools/call', callTool);
    return server;
}

if (transport === 'stdio') {
    require('@modelcontextprotocol/server/stdio').serveStdio(makeServer);
} else if (transport === 'http') {
    const { createMcpHandler } = require('@modelcontextprotocol/server');
    const { fetch } = createMcpHandler(makeServer, { responseMode: 'json' });
    require('@hono/node-server').serve({ fetch, hostname: '127.0.0.1', port: Number(port) });
} else {
    // Only the first generation of the SDK has the transport of 2024-11-05.
    const { Server } = require('@modelcontextprotocol/sdk/server/index.js');
    const { SSEServerTransport } = require('@modelcontextprotocol/sdk/server/sse.js');
    createServer(async (request, response) => {
        const server = new Server({ name: 'peer', version: '1' }, { capabilities: { tools: {} } });
        await server.connect(new SSEServerTransport('/messages', response));
    }).listen(Number(port), '127.0.0.1');
}
