// The TypeScript SDK's first generation, as most hosts and n8n have it.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ResourceUpdatedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';

import { task, visit } from './visit.mjs';

const transports = {
    http: () => new StreamableHTTPClientTransport(new URL(task.url)),
    sse: () => new SSEClientTransport(new URL(task.url)),
    stdio: () => new StdioClientTransport({ command: task.command[0], args: task.command.slice(1), env: task.environment })
};
const client = new Client({ name: 'visitor', version: '1.0.0' });
const transport = transports[task.transport]();
// Over HTTP the client tells the transport what it settled on; the others are told in the same way.
let revision;
transport.setProtocolVersion = (set => version => {
    revision = version;
    set?.call(transport, version);
})(transport.setProtocolVersion);
await client.connect(transport);

await visit(client, {
    revision: () => revision,
    callWithProgress: (call, onprogress) => client.callTool(call, undefined, { onprogress }),
    subscribe: async uri => {
        const heard = new Promise(resolve =>
            client.setNotificationHandler(ResourceUpdatedNotificationSchema, note => resolve(note.params.uri))
        );
        await client.subscribeResource({ uri });
        return { heard }; // in a box, or it would be waited for here
    }
});
