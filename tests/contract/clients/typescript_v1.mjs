// The TypeScript SDK's first generation, as most hosts and n8n have it.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ResourceUpdatedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';

import { task, exercise } from './exercise.mjs';

const transports = {
    http: () => new StreamableHTTPClientTransport(new URL(task.url)),
    sse: () => new SSEClientTransport(new URL(task.url)),
    stdio: () => new StdioClientTransport({ command: task.command[0], args: task.command.slice(1), env: task.environment })
};
const client = new Client({ name: 'client', version: '1.0.0' });
const transport = transports[task.transport]();
// Over HTTP the client sets the negotiated revision on the transport; the other transports get the same hook.
let revision;
transport.setProtocolVersion = (set => version => {
    revision = version;
    set?.call(transport, version);
})(transport.setProtocolVersion);
await client.connect(transport);

await exercise(client, {
    revision: () => revision,
    callWithProgress: (call, onprogress) => client.callTool(call, undefined, { onprogress }),
    subscribe: async uri => {
        const update = new Promise(resolve =>
            client.setNotificationHandler(ResourceUpdatedNotificationSchema, note => resolve(note.params.uri))
        );
        await client.subscribeResource({ uri });
        return { update }; // in an object: a bare promise would be awaited here
    }
});
