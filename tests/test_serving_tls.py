"""TLS in both directions, with a real Orthanc on the other side."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from dicom_nodes import TITLE, ServerProcess, answering, running_orthanc
from serving_sides import IMAGES, listening, remote_at
from spinemets.cli import main
from spinemets.errors import ConfigError, NetworkError
from spinemets.serving.dicomweb import WebRemote
from spinemets.serving.remotes import Query


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """Certificate, key and authority for localhost, signed by the authority of a name."""
    if shutil.which("openssl") is None:
        pytest.skip("tool missing: openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("hospital", "stranger"):
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}-ca.pem", "-subj", f"/CN={name} authority")
        openssl(
            *new, "-keyout", f"{name}-node.key",
            "-CA", f"{name}-ca.pem", "-CAkey", f"{name}.key", "-out", f"{name}-node.pem",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext", "basicConstraints=CA:FALSE",
        )  # fmt: skip

    def of(name: str) -> dict[str, str]:
        files = {"authority": "-ca.pem", "certificate": "-node.pem", "key": "-node.key"}
        return {part: str(folder / f"{name}{suffix}") for part, suffix in files.items()}

    return of


def test_listening_with_tls_takes_those_with_a_certificate_only(tmp_path, certificates):
    ours = certificates("hospital")
    with listening(tmp_path, tls=ours) as node:
        # Somebody who connects and says nothing keeps nobody else waiting.
        with socket.create_connection(("127.0.0.1", node.port)):
            remote_at(node.port, ours).check()
        remote_at(node.port, ours).send(IMAGES)
        assert node.queue.studies()[0].images == 3
        for wrong in (None, {"authority": ours["authority"]}, certificates("stranger")):
            with pytest.raises(NetworkError):
                remote_at(node.port, wrong).check()
        foreign = {**certificates("stranger"), **_authority(ours)}
        with pytest.raises(NetworkError):
            remote_at(node.port, foreign).check()


def test_orthanc_with_tls_is_sent_to_by_c_store(tmp_path, certificates):
    ours, foreign = certificates("hospital"), certificates("stranger")
    tls = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": ours["certificate"],
        "DicomTlsPrivateKey": ours["key"],
        "DicomTlsTrustedCertificates": ours["authority"],
        "DicomAet": TITLE,
    }
    with running_orthanc(tmp_path, **tls) as orthanc:
        remote_at(orthanc.dicom_port, ours).send(IMAGES)
        assert len(orthanc.qido("instances")) == 3
        for wrong in (foreign, {**foreign, **_authority(ours)}):
            with pytest.raises(NetworkError):
                remote_at(orthanc.dicom_port, wrong).check()


class _Forwarder(StreamRequestHandler):
    """Takes TLS off a connection, as a web server in front of an archive does."""

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.behind)) as archive:
            back = Thread(target=self._pass_on, args=(archive, self.request))
            back.start()
            self._pass_on(self.request, archive)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


# The archive itself cannot: Orthanc 1.10 of Debian 12 ends with a segmentation fault over HTTPS.
def test_orthanc_behind_https_is_sent_to_by_stow_with_our_certificate(tmp_path, certificates):
    ours = certificates("hospital")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours["authority"])
    context.load_cert_chain(ours["certificate"], ours["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    with running_orthanc(tmp_path) as orthanc, ThreadingTCPServer(("127.0.0.1", 0), _Forwarder) as front:
        front.behind = orthanc.http_port
        front.socket = context.wrap_socket(front.socket, server_side=True)
        thread = Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            url = f"https://localhost:{front.server_address[1]}/dicom-web"
            with closing(remote_at(1, ours, url)) as archive:
                archive.send(IMAGES)
                assert sum(series.images for series in archive.find(Query())) == 3
            for wrong in (_authority(ours), {**certificates("stranger"), **_authority(ours)}):
                with pytest.raises(NetworkError):
                    remote_at(1, wrong, url).check()
        finally:
            front.shutdown()
            thread.join()


@contextmanager
def https_node(files: dict[str, str], tls: dict[str, str] | None) -> Iterator[WebRemote]:
    """A DICOMweb node that holds nothing, with a certificate; what connects to it trusts ``tls``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["certificate"], files["key"])
    with (
        answering(lambda _: b"[]", context) as port,
        closing(remote_at(1, tls, f"https://localhost:{port}")) as node,
    ):
        yield node


def test_no_other_authority_is_trusted_by_https_than_the_one_named(certificates, monkeypatch):
    ours, others = certificates("hospital"), certificates("stranger")
    # As if the stranger's authority were among those that the world trusts.
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", others["authority"])
    monkeypatch.setenv("SSL_CERT_FILE", others["authority"])
    with https_node(ours, _authority(ours)) as node:
        node.check()
    with https_node(others, _authority(ours)) as node, pytest.raises(NetworkError, match="no TLS connection"):
        node.check()


def test_authorities_of_the_system_are_trusted_by_https_where_none_is_named(certificates, monkeypatch):
    ours, others = certificates("hospital"), certificates("stranger")
    monkeypatch.setenv("SSL_CERT_FILE", ours["authority"])
    with https_node(ours, None) as node:
        node.check()
    with https_node(others, None) as node, pytest.raises(NetworkError, match="no TLS connection"):
        node.check()


def _authority(files: dict[str, str]) -> dict[str, str]:
    return {"authority": files["authority"]}


def test_missing_files_to_listen_with_are_told_by_check(tmp_path):
    tls = {"certificate": "none.pem", "key": "none.key"}
    settings = ServerProcess(tmp_path, {"receive": {"callers": "any", "tls": tls}}).settings
    with pytest.raises(SystemExit) as ending:
        main(["serve", str(settings), "--check"])
    assert ending.value.code == 2


def test_missing_or_wrong_files_for_tls_are_told(tmp_path, certificates):
    ours = certificates("hospital")
    (tmp_path / "text.pem").write_text("no certificate")
    for change in ({"authority": str(tmp_path / "none.pem")}, {"certificate": str(tmp_path / "text.pem")}):
        with pytest.raises(ConfigError, match=r"TLS: one of .* cannot be used"):
            remote_at(1, {**ours, **change})
