// Loaded into servers that would listen on every address of the machine (`node --import`): they listen on loopback.

import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
    return typeof port === 'object' || typeof rest[0] === 'string'
        ? listen.call(this, port, ...rest)
        : listen.call(this, { port: Number(port), host: '127.0.0.1' }, ...rest.filter(each => typeof each === 'function'));
};
