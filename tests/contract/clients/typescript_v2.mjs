// The TypeScript SDK's second generation: `auto` asks for the modern era first, `legacy` shakes hands.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

import { task, visit } from './visit.mjs';

const transports = {
    http: () => new StreamableHTTPClientTransport(new URL(task.url)),
    sse: () => new SSEClientTransport(new URL(task.url)),
    stdio: () => new StdioClientTransport({ command: task.command[0], args: task.command.slice(1), env: task.environment })
};
const client = new Client({ name: 'visitor', version: '1.0.0' }, { versionNegotiation: { mode: task.mode } });
await client.connect(transports[task.transport]());

await visit(client, {
    revision: () => client.getNegotiatedProtocolVersion(),
    callWithProgress: (call, onprogress) => client.callTool(call, { onprogress }),
    subscribe: async uri => {
        const heard = new Promise(resolve =>
            client.setNotificationHandler('notifications/resources/updated', note => resolve(note.params.uri))
        );
        if (client.getNegotiatedProtocolVersion() >= '2026') {
            await client.listen({ resourceSubscriptions: [uri] });
        } else {
            await client.subscribeResource({ uri });
        }
        return { heard }; // in a box, or it would be waited for here
    }
});
