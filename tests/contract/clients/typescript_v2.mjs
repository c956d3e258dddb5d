// The TypeScript SDK's second generation: `auto` tries the modern era first, `legacy` shakes sdk.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

import { task, exercise } from './exercise.mjs';

const transports = {
    http: () => new StreamableHTTPClientTransport(new URL(task.url)),
    sse: () => new SSEClientTransport(new URL(task.url)),
    stdio: () => new StdioClientTransport({ command: task.command[0], args: task.command.slice(1), env: task.environment })
};
const client = new Client({ name: 'client', version: '1.0.0' }, { versionNegotiation: { mode: task.mode } });
await client.connect(transports[task.transport]());

await exercise(client, {
    revision: () => client.getNegotiatedProtocolVersion(),
    callWithProgress: (call, onprogress) => client.callTool(call, { onprogress }),
    subscribe: async uri => {
        const update = new Promise(resolve =>
            client.setNotificationHandler('notifications/resources/updated', note => resolve(note.params.uri))
        );
        if (client.getNegotiatedProtocolVersion() >= '2026') {
            await client.listen({ resourceSubscriptions: [uri] });
        } else {
            await client.subscribeResource({ uri });
        }
        return { update }; // in an object: a bare promise would be awaited here
    }
});
