"""Binding the HTTP server: its TLS files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from chora.errors import UsageError
from chora.settings import HttpSettings, LimitSettings
from chora.transport.listener import (
    PEM_LIMIT,
    RESERVED_DESCRIPTORS,
    affordable_connections,
    check_tls,
    make_http_server,
)
from tests.conftest import requirement
from tests.odd_files import put_odd_file


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate with its key, and the key of another one."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    found = {name: folder / f"{name}.pem" for name in ("cert", "key", "other")}
    mine, other = authority.issue_cert("localhost"), authority.issue_cert("other.example")
    mine.cert_chain_pems[0].write_to_path(found["cert"])
    mine.private_key_pem.write_to_path(found["key"])
    other.private_key_pem.write_to_path(found["other"])
    return found


def test_a_certificate_with_its_key_is_used(pems: dict[str, Path]):
    """Both together, or neither."""
    check_tls(HttpSettings(cert=str(pems["cert"]), key=str(pems["key"])))
    check_tls(HttpSettings())


@requirement("server.tls")
@pytest.mark.parametrize(("given", "missing"), [("cert", "key"), ("key", "cert")])
def test_half_of_the_tls_settings_is_refused(pems: dict[str, Path], given: str, missing: str):
    """Plain HTTP would carry the token in clear text, where TLS was meant."""
    both: dict[str, Any] = {given: str(pems[given])}
    settings = HttpSettings(**both)
    with pytest.raises(UsageError, match=f"http.{given} is set without http.{missing}") as caught:
        make_http_server(None, settings, LimitSettings())
    assert caught.value.details == {"setting": f"http.{missing}"}


@requirement("server.tls")
@pytest.mark.parametrize("setting", ["cert", "key"])
@pytest.mark.parametrize("fault", ["missing", "a folder", "a pipe", "too large", "empty", "not PEM"])
def test_a_tls_file_that_cannot_be_used_is_named(pems: dict[str, Path], tmp_path: Path, setting: str, fault: str):
    """At the start, without waiting for it."""
    file = tmp_path / "spoiled.pem"
    put_odd_file(file, fault, limit=PEM_LIMIT)
    settings: dict[str, Any] = {"cert": str(pems["cert"]), "key": str(pems["key"]), setting: str(file)}
    with pytest.raises(UsageError) as caught:
        make_http_server(None, HttpSettings(**settings), LimitSettings())
    assert str(file) in caught.value.message
    assert caught.value.hint


@requirement("server.tls")
def test_the_key_of_another_certificate_is_refused(pems: dict[str, Path]):
    """Each handshake would fail."""
    with pytest.raises(UsageError, match="can't be used"):
        check_tls(HttpSettings(cert=str(pems["cert"]), key=str(pems["other"])))


@requirement("server.tls")
def test_an_encrypted_key_is_refused_without_a_prompt(pems: dict[str, Path], tmp_path: Path):
    """OpenSSL would ask for its password on the terminal, where a service has none."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(pems["key"].read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"pass"))
    )
    with pytest.raises(UsageError, match="can't be used"):
        check_tls(HttpSettings(cert=str(pems["cert"]), key=str(encrypted)))


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no such limit there")
@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (100, -1, 1000 + RESERVED_DESCRIPTORS, 1000),
        (100, 5000, 1000 + RESERVED_DESCRIPTORS, 1000),
        (100, 300 + RESERVED_DESCRIPTORS, 300 + RESERVED_DESCRIPTORS, 300),
        (100, 100, 100, 1),
        (1000 + RESERVED_DESCRIPTORS, 9000, None, 1000),
        (-1, -1, None, 1000),
    ],
)
def test_connections_are_as_many_as_descriptors_allow(
    soft: int, hard: int, raised: int | None, connections: int, monkeypatch: pytest.MonkeyPatch
):
    """The soft limit is raised as far as it is needed and may be; the rest is kept for everything else."""
    import resource

    assert resource.RLIM_INFINITY == -1
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append((which, pair)))
    assert affordable_connections(1000) == connections
    assert limits == ([] if raised is None else [(resource.RLIMIT_NOFILE, (raised, hard))])
