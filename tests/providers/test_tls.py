"""A key goes to nobody who cannot prove to be its provider."""

import asyncio
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from small4.errors import UpstreamUnreachableError
from tests.providers.dialects import CALLER, QUESTION, provider_at


def self_signed(directory: Path) -> ssl.SSLContext:
    """A server's context with a certificate for 127.0.0.1 that nobody vouches for."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "there")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (directory / "there.pem").write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "there.pem")
    return context


def test_a_certificate_that_nobody_vouches_for_gets_no_key(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1000))
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=self_signed(tmp_path))
        port = server.sockets[0].getsockname()[1]
        provider = provider_at(f"https://127.0.0.1:{port}")
        with pytest.raises(UpstreamUnreachableError, match="certificate"):
            await anext(provider.stream(QUESTION, CALLER))
        await provider.upstream.aclose()
        server.close()

    asyncio.run(run())
    assert not any(received)


def test_a_server_without_tls_gets_no_key_that_was_meant_for_one_with_it() -> None:
    received: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1000))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(take, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        provider = provider_at(f"https://127.0.0.1:{port}")
        with pytest.raises(UpstreamUnreachableError):
            await anext(provider.stream(QUESTION, CALLER))
        await provider.upstream.aclose()
        server.close()

    asyncio.run(run())
    assert all(b"canary" not in data for data in received)
