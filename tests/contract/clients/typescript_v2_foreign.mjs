// The TypeScript SDK's second generation in front of a server of others: it tries the modern era first, and its request
// for that waits a minute when a refusal doesn't reach it. `node … TASK`, where the task is {"command", "environment",
// "tool", "arguments"}.

import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const task = JSON.parse(process.argv[2]);
const client = new Client({ name: 'client', version: '1.0.0' }, { versionNegotiation: { mode: 'auto' } });
const [command, ...args] = task.command;
await client.connect(new StdioClientTransport({ command, args, env: task.environment, stderr: 'ignore' }));
const revision = client.getNegotiatedProtocolVersion();
const { tools } = await client.listTools();
const schema = Object.keys(tools.find(tool => tool.name === task.tool).inputSchema.properties).sort();
const answer = await client.callTool({ name: task.tool, arguments: task.arguments });
const unknown = await client.callTool({ name: 'make_coffee', arguments: {} }).then(result => result.isError, () => true);
await client.close();
console.log(JSON.stringify({ revision, schema, said: answer.content.map(block => block.text ?? '').join(''), unknown }));
process.exit(0);
