// Loaded into the conformance suite (`node --import`). The suite's client always offers the newest revision it knows,
// whichever leg it runs; here it offers the leg's own. And it is strict where the suite isn't: what isn't a request is
// accepted with 202 and nothing else (Streamable HTTP, "Sending Messages to the Server").
//
// CHORA_SUITE is {"revision", "instead"}: the revision to offer, or null in the modern era; and by the name or URI of a
// fixture what the product is asked for instead, as parameters that replace the suite's.

const { revision, instead } = JSON.parse(process.env.CHORA_SUITE);
const fetchAsIs = globalThis.fetch;

function replaceParameters(message, headers) {
    const asked = message.method === 'completion/complete' ? message.method : (message.params?.name ?? message.params?.uri);
    const replaced = instead[asked];
    if (replaced === undefined) return;
    message.params = { ...message.params, ...replaced };
    if (headers.get('mcp-name') === asked) headers.set('mcp-name', replaced.name ?? replaced.uri);
}

globalThis.fetch = async (url, options = {}) => {
    let message;
    try {
        message = JSON.parse(options.body);
    } catch {
        return fetchAsIs(url, options); // no body, or one that isn't JSON on purpose
    }
    const headers = new Headers(options.headers);
    const initializes = revision !== null && message.method === 'initialize';
    if (initializes) message.params.protocolVersion = revision;
    replaceParameters(message, headers);
    const response = await fetchAsIs(url, { ...options, headers, body: JSON.stringify(message) });
    if (!response.ok) return response;
    if (initializes) {
        const said = await response.clone().text();
        if (!said.includes(`"protocolVersion":"${revision}"`)) throw new Error(`${revision} was offered, and the answer is ${said}`);
    }
    if (message.method === undefined || message.id === undefined) {
        const said = await response.clone().text();
        if (response.status !== 202 || said) throw new Error(`${message.method} was answered with ${response.status} ${said}`);
    }
    return response;
};
