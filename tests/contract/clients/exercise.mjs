// What a client of the TypeScript SDKs calls, and its results as one line of JSON. `node CLIENT.mjs TASK`, where
// the task is {"transport", "mode", "url" or "command", "name"}.

export const task = JSON.parse(process.argv[2]);

/**
 * Exercise the server, whichever generation of the SDK the client is of.
 *
 * @param client connected.
 * @param sdk calls with progress, subscribes to one resource, and returns the negotiated revision, in this generation.
 */
export async function exercise(client, sdk) {
    const results = { revision: sdk.revision() };
    results.tools = (await client.listTools()).tools;
    results.hello = (await client.callTool({ name: 'hello_world', arguments: { name: task.name } })).structuredContent;
    const generate = name => ({ name: 'generate_content', arguments: { content_config_id: 'greeting', context: { name } } });
    const generated = await client.callTool(generate(task.name));
    results.generated = generated.structuredContent;
    results.same_as_text = JSON.stringify(JSON.parse(generated.content[0].text)) === JSON.stringify(generated.structuredContent);
    results.resource = (await client.readResource({ uri: 'content://greeting' })).contents;
    const prompt = await client.getPrompt({ name: 'review-content', arguments: { content_id: 'greeting' } });
    results.prompt = prompt.messages.map(({ content }) => [content.type, content.resource?.text ?? null]);
    const failure = await client.callTool({ name: 'generate_content', arguments: { content_config_id: 'nobody' } });
    results.failure = failure.isError === true ? failure.structuredContent.error : null;
    results.unknown = await client.callTool({ name: 'make_coffee', arguments: {} }).then(() => null, error => error.code);
    results.progress = [];
    const assemble = { name: 'assemble_artifact', arguments: { artifact_config_id: 'hello', force: true } };
    // The SDK forgets progress that arrives in one piece with the answer, which on a busy machine it may.
    for (let tries = 0; tries < 10 && !results.progress.length; tries++) {
        await sdk.callWithProgress(assemble, progress => results.progress.push(progress.message));
    }
    const { update } = await sdk.subscribe('content://greeting');
    await client.callTool(generate(`${task.name} again`));
    results.updated = await Promise.race([update, new Promise(resolve => setTimeout(resolve, 10000, null))]);
    await client.close();
    console.log(JSON.stringify(results));
    process.exit(0);
}
