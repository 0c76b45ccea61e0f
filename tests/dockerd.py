"""A real Docker Engine for tests, also behind TLS, and a real registry."""

import datetime as dt
import ipaddress
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dashboard.local.docker_engine import DockerEngine
from dashboard.local.errors import LocalError
from tests.servers import until

USER, PASSWORD = "shop", "only-for-tests"
# Of the password, as `htpasswd -B` makes it: the registry takes no other.
_HTPASSWD = "shop:$2b$05$R0Idy8Anl6iUFZs70QSWWelaKPHXM6L2DUrgavD83iIhpf4lhQabS\n"
_REGISTRY = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: "{folder}/data"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: tests, path: "{folder}/htpasswd"}}}}
"""


@contextmanager
def running_dockerd(options: Sequence[str] = ()) -> Iterator[DockerEngine]:
    """Run an engine with further `options` of dockerd; skip the test where none can start."""
    with tempfile.TemporaryDirectory(prefix="lg-d-", dir="/tmp") as folder:
        engine = DockerEngine(Path(folder), options)
        try:
            engine.start()
        except LocalError as error:
            pytest.skip(f"optional: no Docker engine starts here: {error}")
        try:
            yield engine
        finally:
            engine.stop()


@contextmanager
def running_registry(folder: Path, port: int) -> Iterator[str]:
    """Run Debian's docker-registry, which wants USER's PASSWORD; yield HOST:PORT."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("optional: docker-registry is not on this machine")
    folder.mkdir(exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    config = folder / "config.yml"
    config.write_text(_REGISTRY.format(folder=folder, port=port))
    process = subprocess.Popen(
        [program, "serve", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"127.0.0.1:{port}"

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://{address}/v2/", trust_env=False).status_code == 401
        return False

    try:
        until(answers, what="the registry answers")
        yield address
    finally:
        process.terminate()
        process.wait(10)


class Authority:
    """Signs certificates for loopback, all in `folder`; `ca` is its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}-ca.pem"
        certificate = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._write(self.ca, certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the paths of a certificate, for servers and clients, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = self._builder(subject, key.public_key()).add_extension(
            x509.SubjectAlternativeName([here]), critical=False
        )
        issuer = self.ca.stem
        cert_path = self._folder / f"{issuer}-{name}.pem"
        key_path = self._folder / f"{issuer}-{name}.key"
        self._write(cert_path, certificate)
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert_path, key_path

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    def _write(self, path: Path, certificate: x509.CertificateBuilder) -> None:
        signed = certificate.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
