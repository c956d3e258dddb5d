"""Addresses of HTTP servers and requests."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

_NETLOC = re.compile(r"([^\[\]:]+|\[[^\[\]]+\])(:[0-9]*)?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9a-f.]*:[0-9a-f:.]*(%[A-Za-z0-9._~%-]+)?")


class Origin(NamedTuple):
    """A server: scheme, host and port of an address."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host and port as an address writes them: the port only when it isn't the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Address(NamedTuple):
    """The address of a request."""

    origin: Origin
    target: str
    """Path and query."""

    def __str__(self) -> str:
        """For messages and logs; without the query, which may hold a secret."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    def join(self, reference: str) -> Address:
        """The address of a reference, relative to this one.

        Raises:
            ValueError: it isn't an address.
        """
        return parse_address(urljoin(f"{self.origin}{self.target}", reference))


def parse_address(url: str) -> Address:
    """Parse an address.

    Raises:
        ValueError: it isn't the address of an HTTP server; the message says why.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it doesn't begin with http:// or https:// and a host")
    if "@" in parts.netloc:
        raise ValueError("it holds a user name or password")
    try:
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError("its host is no name") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not all("!" <= letter <= "~" for letter in target):
        raise ValueError("it holds characters that an address must escape")
    # urlsplit ignores what stands before or behind an address in brackets.
    if not _NETLOC.fullmatch(parts.netloc) or not _HOST.fullmatch(host):
        raise ValueError("its host is no name")
    port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    return Address(Origin(parts.scheme, host, port), target)
