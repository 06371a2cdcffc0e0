"""Certificates for a test: an authority, a server's and a client's."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM. The server's certificate is for ``localhost`` only."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def server_context(self, *, ask_client: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority))
        context.load_cert_chain(self.server, self.server_key)
        context.verify_mode = ssl.CERT_REQUIRED if ask_client else ssl.CERT_NONE
        return context


def can_make() -> bool:
    return shutil.which("openssl") is not None


def make(folder: Path) -> Certificates:
    """Make them in ``folder``, by the command ``openssl``."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    _openssl("req", "-x509", *curve, "-subj", "/CN=test authority", "-keyout", str(key), "-out", str(authority))
    files: dict[str, Path] = {}
    for name, subject in (("server", "/CN=localhost"), ("client", "/CN=client")):
        own_key, request, certificate = folder / f"{name}.key", folder / f"{name}.csr", folder / f"{name}.pem"
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost\n" if name == "server" else "extendedKeyUsage=clientAuth\n")
        _openssl("req", "-new", *curve[:5], "-subj", subject, "-keyout", str(own_key), "-out", str(request))
        signing = ("-CA", str(authority), "-CAkey", str(key), "-CAcreateserial", "-days", "2", "-extfile", str(extensions))
        _openssl("x509", "-req", "-in", str(request), *signing, "-out", str(certificate))
        files |= {name: certificate, f"{name}_key": own_key}
    return Certificates(authority=authority, **files)


def lock(key: Path, locked: Path, passphrase: str) -> None:
    """The same key, of use only with ``passphrase``."""
    _openssl("pkcs8", "-topk8", "-in", str(key), "-out", str(locked), "-passout", f"pass:{passphrase}")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
