"""Access control: bearer tokens, scopes, principals, and trusted proxies."""

from __future__ import annotations

import errno
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from chora.disk import make_folder
from chora.errors import Forbidden, InvalidInput, SaveFailed, TokenNotFound, Unauthorized, UsageError
from chora.file_stamps import is_at_rest
from chora.nesting import decode_json
from chora.nofollow import CREATE, open_folder
from chora.regular_files import read_regular_file
from chora.secrets import Secret
from chora.timestamps import format_timestamp, now

log = logging.getLogger("chora.access")

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a token allows: reading; also creating and changing; also deleting."""

TOKEN_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
TOKEN_LIMIT = 1000
"""Tokens of one project."""
TOKEN_LENGTH_MINIMUM = 16
"""Characters of the shared token."""
FILE_LIMIT = 4096
"""Bytes of a token's file."""
RESERVED_NAMES = ("local", "token", "probe")
"""Names of principals that no token may have."""
NAMED_KEY_PREFIX = "token "
"""The prefix of the keys of named tokens."""
SHARED_KEY_PREFIX = "shared "
"""The prefix of the key of the token that all clients may share."""


class Principal(NamedTuple):
    """Who makes a request: a token's name and scope."""

    name: str
    scope: Scope = "admin"
    routine: bool = False
    """Calls regularly and automatically; logged at debug level only."""
    key: str = ""
    """Distinguishes a token from an earlier one of the same name."""

    def has_scope(self, scope: Scope) -> bool:
        """Whether the principal has this scope, which higher scopes include."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def authorize(principal: Principal, tool: str, scope: Scope) -> None:
    """Let a principal call a tool, or not.

    Args:
        principal: who calls.
        tool: its name.
        scope: the scope that it takes.

    Raises:
        Forbidden: the principal lacks the scope.
    """
    if not principal.has_scope(scope):
        raise Forbidden(
            f"{principal.name} lacks the scope {scope}, which {tool} takes.",
            f"Use a token with the scope {scope}.",
            tool=tool,
            scope=scope,
        )


LOCAL = Principal("local")
"""The client on stdio, and any client of a loopback server without tokens."""


# -- named tokens -----------------------------------------------------------------------------------------------


class Token(msgspec.Struct, frozen=True):
    """A named token as it is stored: its scope, and the hash by which it is recognised."""

    name: str
    scope: Scope
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created: str
    expires: Annotated[str, msgspec.Meta(pattern="^[0-9-]{10}T[0-9:.]{8,15}Z$")] | None = None

    @property
    def is_expired(self) -> bool:
        return self.expires is not None and self.expires <= now()

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.scope, key=f"{NAMED_KEY_PREFIX}{self.sha256[:16]}")


def is_token_name(name: str) -> bool:
    """Whether a token may have this name; those of the principals that chora has by itself are taken."""
    return TOKEN_NAME.fullmatch(name) is not None and name not in RESERVED_NAMES


class Tokens:
    """The named tokens of a project: a folder with a file for each, so that creating and revoking one is atomic.

    Args:
        folder: created with the first token. Once it exists, every request needs a token.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[bytes, Token] = {}
        self._principals: dict[Principal, Token] = {}
        self._last_check = (-1, 0)
        """The folder's modification time, and when it was read, both in nanoseconds."""

    @property
    def in_use(self) -> bool:
        """Whether a token was ever created here; a folder that can't be looked at counts as one with tokens."""
        try:
            return stat.S_ISDIR(self._folder.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    @property
    def has_valid_token(self) -> bool:
        """Whether a token exists that hasn't expired."""
        return any(not token.is_expired for token in self.list_tokens())

    def create_token(self, name: str, scope: Scope, *, lasts: timedelta | None = None) -> tuple[Secret, Token]:
        """Create a token; the returned secret is the only copy of its text.

        Args:
            name: by which it is listed and revoked.
            scope: what it allows.
            lasts: how long it is valid; None until it is revoked.

        Raises:
            InvalidInput: the name isn't valid, or there are too many tokens.
            SaveFailed: there is a token of this name, or its file can't be written.
        """
        if not is_token_name(name):
            raise InvalidInput(
                f"{name[:80]!r} can't name a token.",
                f"Use lower-case letters, digits and hyphens, at most 63 of them, but not {', '.join(RESERVED_NAMES)}.",
                field="name",
            )
        if len(self.list_tokens()) >= TOKEN_LIMIT:
            raise InvalidInput(f"There are {TOKEN_LIMIT:,} tokens already.", "Revoke those that aren't used.")
        secret = Secret(f"chora_{secrets.token_urlsafe(32)}")
        expires = None if lasts is None else format_timestamp(datetime.now(UTC) + lasts)
        token = Token(name, scope, _digest(secret.reveal()).hex(), now(), expires)
        path = self._folder / f"{name}.json"
        try:
            make_folder(self._folder)
            _write_new(path, msgspec.json.format(msgspec.json.encode(token), indent=2) + b"\n")
        except OSError as error:
            if isinstance(error, FileExistsError) and self.in_use:
                raise SaveFailed(
                    f"There is a token {name} already.", f"Choose another name, or first: chora token revoke {name}"
                ) from None
            raise SaveFailed(
                f"The token {name} can't be stored: {error.strerror or error}.",
                "See that .chora/tokens is a folder that can be written to.",
            ) from error
        return secret, token

    def list_tokens(self) -> list[Token]:
        """All tokens, by name; files that aren't tokens are skipped."""
        return self._read_tokens()[0]

    def _read_tokens(self) -> tuple[list[Token], bool]:
        """All tokens, by name, and whether each file could be looked at: descriptors may be lacking for a while."""
        found: list[Token] = []
        complete = True
        try:
            with open_folder(self._folder) as folder:
                paths = [self._folder / name for name in sorted(folder.names()) if name.endswith(".json")]
        except OSError as error:
            return [], error.errno in _LASTING_ERRORS
        for path in paths:
            try:
                token = decode_json(_read_token(path), Token)
            except OSError as error:
                complete = complete and error.errno in _LASTING_ERRORS
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            else:
                if token.name == path.stem and is_token_name(token.name):
                    found.append(token)
        return found, complete

    def revoke_token(self, name: str) -> None:
        """Revoke a token, at once and for good.

        Raises:
            TokenNotFound: there is none of this name.
        """
        path = self._folder / f"{name}.json"
        try:
            if not TOKEN_NAME.fullmatch(name):
                raise FileNotFoundError
            with open_folder(self._folder) as folder:
                if folder.find_status(path.name) is None:
                    raise FileNotFoundError
                folder.delete_file(path.name)
        except FileNotFoundError:
            raise TokenNotFound(
                f"There is no token {name[:80]!r}.", "`chora token list` shows them.", name=name[:80]
            ) from None

    def find_token(self, digest: bytes) -> Token | None:
        """The token with this hash, unless it has expired."""
        self._refresh()
        token = self._known.get(digest)
        return None if token is None or token.is_expired else token

    def forget(self) -> None:
        """Read all tokens again at the next request, changed or not."""
        self._last_check = (-1, 0)

    def is_valid(self, principal: Principal) -> bool:
        """Whether the token of a principal still exists and hasn't expired."""
        self._refresh()
        token = self._principals.get(principal)
        return token is not None and not token.is_expired

    def _refresh(self) -> None:
        """Read the tokens again if the folder has changed; costs one stat otherwise."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            changed = 0
        known, checked_at = self._last_check
        if changed != known or not is_at_rest(changed, now=checked_at):
            began = time.time_ns()
            found, complete = self._read_tokens()
            # After a failure the next request tries again: a token counts again as soon as its file can be read.
            self._last_check = (changed, began) if complete else (-1, 0)
            self._known = {bytes.fromhex(token.sha256): token for token in found}
            self._principals = {token.principal: token for token in found}


_LASTING_ERRORS = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV),
)
"""Errors of files that aren't tokens; any other one may pass."""


def _read_token(path: Path) -> bytes:
    """The content of a token's file."""
    return read_regular_file(path, FILE_LIMIT, partial(_check_private, path), links=False)


def _check_private(path: Path, status: os.stat_result) -> None:
    if sys.platform != "win32" and status.st_mode & 0o077:
        # Git can't check out a file that only its owner reads: this one may be an attacker's token (CWE-732).
        log.warning(
            "the token in %s is ignored: other users may read the file; if it is yours, run chmod 600 on it", path
        )
        raise PermissionError(errno.EPERM, "others may read it", str(path))


def _write_new(path: Path, data: bytes) -> None:
    """Create a file, whole or not at all.

    Raises:
        FileExistsError: it exists.
    """
    with open_folder(path.parent) as folder:
        aside = f".{secrets.token_hex(8)}.tmp"
        try:
            _write_whole(folder.open_file(aside, CREATE), data)
            try:
                folder.link(aside, path.name)  # unlike a rename, this fails when the name is taken
            except FileExistsError:
                raise
            except OSError:  # a file system without links; half a token's file isn't a token
                _write_whole(folder.open_file(path.name, CREATE), data)
        finally:
            folder.delete_file(aside)


def _write_whole(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


# -- HTTP requests ----------------------------------------------------------------------------------------------


class Authenticator:
    """Checks the tokens of HTTP requests.

    Only hashes are stored. They are looked up, or compared in constant time (CWE-208): the time of a look-up could at
    most tell a piece of the hash of what was sent, which says nothing about the valid tokens.

    Args:
        host: the address that the server is bound to.
        token: a token that all clients may share; None when there is none.
        tokens: the named tokens.
        trusted_proxies: addresses and networks of proxies whose forwarding headers are believed.
        has_issuer: whether an external issuer issues tokens too.

    Raises:
        UsageError: the server is bound beyond loopback without a valid token, the token is too short, or a proxy is
            no address.
    """

    def __init__(
        self,
        host: str,
        token: Secret | None,
        tokens: Tokens | None = None,
        *,
        trusted_proxies: Sequence[str] = (),
        has_issuer: bool = False,
    ) -> None:
        self.is_public = not is_loopback(host)
        self._tokens = tokens
        self._proxies = [_network(each) for each in trusted_proxies]
        self._principals: dict[bytes, Principal] = {}
        self._needs_token = token is not None or has_issuer
        if self.is_public and not (self._needs_token or (tokens is not None and tokens.has_valid_token)):
            raise UsageError(
                f"chora won't listen on {host} without a token: any client could read and write the project.",
                "Make one with `chora token new NAME`, give one in CHORA_TOKEN_FILE or as the secret chora_token, or "
                "bind 127.0.0.1.",
                host=host,
            )
        self._shared: Secret | None = None
        if token is not None:
            self.replace_token(token)

    @property
    def requires_token(self) -> bool:
        """Whether every request needs a token; beyond loopback also when the folder of tokens has vanished."""
        return self.is_public or self._needs_token or (self._tokens is not None and self._tokens.in_use)

    def add_token(self, token: Secret, principal: Principal) -> None:
        """Accept a token for as long as this process lives."""
        self._principals[_digest(token.reveal())] = principal

    def replace_token(self, token: Secret | None) -> None:
        """Accept another token that all clients may share, and the one before it no more.

        Without one, requests need a token all the same if they did before.

        Raises:
            UsageError: it is too short; then the one before it is still accepted.
        """
        if token is not None and len(token.reveal()) < TOKEN_LENGTH_MINIMUM:
            raise UsageError(
                f"The access token is shorter than {TOKEN_LENGTH_MINIMUM} characters, so it could be guessed.",
                "Make a long random one, such as with `chora token new NAME` or `openssl rand -hex 32`.",
            )
        if self._shared is not None:
            del self._principals[_digest(self._shared.reveal())]
        self._shared = token
        if token is not None:
            self._needs_token = True
            key = f"{SHARED_KEY_PREFIX}{_digest(token.reveal()).hex()[:16]}"
            self.add_token(token, Principal("token", key=key))

    def authenticate(self, authorization: str | None, *, is_local: bool = True) -> Principal:
        """The principal of an Authorization header.

        Args:
            authorization: the header.
            is_local: whether the client is on this machine.

        Raises:
            Unauthorized: a token is needed and none, or a wrong one, was given.
        """
        given = bearer_token(authorization)
        if given is not None:
            digest = _digest(given)
            for known, principal in self._principals.items():
                if hmac.compare_digest(known, digest):
                    return principal
            if self._tokens is not None and (token := self._tokens.find_token(digest)) is not None:
                return token.principal
        if not self.requires_token and is_local:
            return LOCAL
        if not self.requires_token:
            raise Unauthorized(
                "This server has no token, so only this machine may use it, and a proxy forwards for other machines.",
                "Make one with `chora token new NAME`, and name the proxy in the setting http.trusted_proxies.",
            )
        if authorization is None:
            raise Unauthorized("This server needs a token.", "Send it as `Authorization: Bearer …`.")
        raise Unauthorized("The token is not valid here.", "Send a valid one as `Authorization: Bearer …`.")

    def is_still_valid(self, principal: Principal) -> bool:
        """Whether the token of a principal is still accepted."""
        if principal == LOCAL:
            return not self.requires_token
        if principal.key.startswith(NAMED_KEY_PREFIX) and self._tokens is not None:
            return self._tokens.is_valid(principal)
        if principal.key.startswith(SHARED_KEY_PREFIX):
            return principal in self._principals.values()
        return True

    def is_trusted_proxy(self, address: str) -> bool:
        """Whether the forwarding headers of a proxy at this address are believed."""
        return _is_in(address, self._proxies)

    def client_address(self, forwarded: Sequence[str]) -> str:
        """The client: the last forwarding address that isn't a trusted proxy; empty if it is no address.

        Args:
            forwarded: the `X-Forwarded-For` headers of a trusted proxy, whose entries are appended from left to right.
        """
        for address in reversed(",".join(forwarded).split(",")):
            if not self.is_trusted_proxy(address.strip()):
                return address.strip() if _is_address(address.strip()) else ""
        return ""


def bearer_token(authorization: str | None) -> str | None:
    """The token in an Authorization header; None if there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise UsageError(
            f"http.trusted_proxies: {text[:80]!r} is neither an address nor a network.",
            "Write for example 127.0.0.1 or 10.0.0.0/8.",
            setting="http.trusted_proxies",
        ) from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[_Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
