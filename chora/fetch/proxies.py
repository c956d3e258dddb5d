"""The proxy through which a server is reached: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from chora.fetch.addresses import Origin
from chora.fetch.failures import ConnectFailed


class Proxy(NamedTuple):
    """An HTTP proxy."""

    host: str
    port: int
    authorization: str | None
    """The value of the `Proxy-Authorization` header, a secret."""

    @property
    def netloc(self) -> str:
        """Host and port as an address writes them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        """For messages and logs, without the password."""
        return f"the proxy {self.netloc}"

    @property
    def headers(self) -> list[str]:
        """The header lines for the proxy itself."""
        return [] if self.authorization is None else [f"proxy-authorization: {self.authorization}"]


def find_proxy(origin: Origin) -> Proxy | None:
    """The proxy for a server by the environment; None for this machine, and where there is none.

    The names are read in lower and upper case, lower case first, as curl, Python and Go do; `NO_PROXY` lists hosts and
    domains, or is `*`. In a CGI program `HTTP_PROXY` is a header of the client (CVE-2016-5385) and isn't read.

    Raises:
        ConnectFailed: what is named there is no HTTP proxy.
    """
    if _is_this_machine(origin.host):
        return None
    # It takes tens of milliseconds to import, which nobody has to wait for who connects to this machine.
    from urllib.request import getproxies_environment

    proxies = getproxies_environment()
    url = proxies.get(origin.scheme) or proxies.get("all")
    if not url or _is_excepted(origin, proxies.get("no", "")):
        return None
    return parse_proxy(url, origin.scheme)


def parse_proxy(url: str, scheme: str) -> Proxy:
    """The proxy that an environment variable names, also without `http://`."""
    variable = f"{scheme.upper()}_PROXY or ALL_PROXY"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConnectFailed(f"{variable} names no proxy") from None
    if parts.scheme != "http" or not host or not host.isascii():
        raise ConnectFailed(f"{variable} names no HTTP proxy; write http://host:port")
    user = unquote(parts.username or "")
    secret = f"{user}:{unquote(parts.password or '')}".encode()
    return Proxy(host, port or 80, f"Basic {base64.b64encode(secret).decode()}" if user else None)


def _is_excepted(origin: Origin, names: str) -> bool:
    """Whether `NO_PROXY` lists a server: by name, perhaps with a port, by domain or network, or all with `*`."""
    for name in (each.strip().lower() for each in names.split(",")):
        if name in ("*", origin.host, f"{origin.host}:{origin.port}", origin.netloc):
            return True
        domain = name.removeprefix("*").lstrip(".")
        if domain and origin.host.endswith(f".{domain}"):
            return True
        with contextlib.suppress(ValueError):
            if "/" in name and ipaddress.ip_address(origin.host) in ipaddress.ip_network(name, strict=False):
                return True
    return False


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
