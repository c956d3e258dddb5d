// What a client of the TypeScript SDKs does at the server, told as one line of JSON. `node CLIENT.mjs TASK`, where
// the task is {"transport", "mode", "url" or "command", "name"}.

export const task = JSON.parse(process.argv[2]);

/**
 * Visit the server, whichever generation of the SDK the client is of.
 *
 * @param client connected.
 * @param hands how this generation calls with progress, subscribes to one resource, and names the revision it settled on.
 */
export async function visit(client, hands) {
    const told = { revision: hands.revision() };
    told.tools = (await client.listTools()).tools.length;
    told.hello = (await client.callTool({ name: 'hello_world', arguments: { name: task.name } })).structuredContent.message;
    const generate = name => ({ name: 'generate_content', arguments: { content_config_id: 'greeting', context: { name } } });
    const generated = await client.callTool(generate(task.name));
    told.generated = generated.structuredContent.content;
    told.same_as_text = JSON.stringify(JSON.parse(generated.content[0].text)) === JSON.stringify(generated.structuredContent);
    told.resource = (await client.readResource({ uri: 'content://greeting' })).contents[0].text;
    const prompt = await client.getPrompt({ name: 'review-content', arguments: { content_id: 'greeting' } });
    told.prompt = prompt.messages.map(message => message.content.type);
    const failure = await client.callTool({ name: 'generate_content', arguments: { content_config_id: 'nobody' } });
    told.failure = failure.isError === true ? failure.structuredContent.error.code : null;
    told.unknown = await client.callTool({ name: 'make_coffee', arguments: {} }).then(() => null, error => error.code);
    told.progress = [];
    const assemble = { name: 'assemble_artifact', arguments: { artifact_config_id: 'hello', force: true } };
    // The SDK forgets progress that arrives in one piece with the answer, which on a busy machine it may.
    for (let tries = 0; tries < 10 && !told.progress.length; tries++) {
        await hands.callWithProgress(assemble, progress => told.progress.push(progress.message));
    }
    const { heard } = await hands.subscribe('content://greeting');
    await client.callTool(generate(`${task.name} again`));
    told.updated = await Promise.race([heard, new Promise(resolve => setTimeout(resolve, 10000, null))]);
    await client.close();
    console.log(JSON.stringify(told));
    process.exit(0);
}
