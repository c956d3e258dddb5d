// Runs scenarios of the conformance suite on a leg that they aren't of. The suite does that for one scenario a process
// (`--scenario NAME --force`); here one process runs them all, which takes a tenth of the time.
//
// `node suite_forced.mjs SUITE URL FOLDER REVISION SCENARIO...`

import { pathToFileURL } from 'node:url';

const [suite, url, folder, revision, ...scenarios] = process.argv.slice(2);
const exit = process.exit;

for (const scenario of scenarios) {
    const ended = new Promise(resolve => (process.exit = resolve));
    process.argv = [...process.argv.slice(0, 2), 'server', '--url', url, '-o', folder];
    process.argv.push('--scenario', scenario, '--force', '--spec-version', revision);
    await import(`${pathToFileURL(suite)}?${scenario}`); // under a name of its own, so that it is run again
    await ended; // its last act, whether the checks passed or not; its files say that
}
exit(0);
