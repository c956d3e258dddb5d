// The form that n8n's MCP client node shows for a tool, by n8n's own module: `node n8n_forms.mjs MODULE`, with schemas
// by the names of tools on stdin.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { convertJsonSchemaToResourceMapperFields } = createRequire(import.meta.url)(process.argv[2]);
const schemas = Object.entries(JSON.parse(readFileSync(0, 'utf8')));
console.log(JSON.stringify(Object.fromEntries(schemas.map(([name, schema]) => [name, convertJsonSchemaToResourceMapperFields(schema)]))));
