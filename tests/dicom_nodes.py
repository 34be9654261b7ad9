"""DICOM nodes on this machine's loopback, for tests: a real Orthanc, our own server, and a modality."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pydicom
import pytest
import yaml
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

PATIENCE_S = 400
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_PROGRAMS = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
TITLE = "SPINEMETS"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S} s in vain for {what}")
        time.sleep(0.05)


def ask(url: str, content: bytes | None = None) -> object:
    request = urllib.request.Request(url, data=content)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@dataclass(frozen=True)
class Orthanc:
    """A running archive; ``server_port`` is where it believes our server to listen."""

    http_port: int
    dicom_port: int
    server_port: int

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def web(self) -> str:
        return f"{self.rest}/dicom-web"

    def upload(self, paths: Sequence[Path]) -> None:
        for path in paths:
            ask(f"{self.rest}/instances", path.read_bytes())

    def qido(self, path: str) -> list[Dataset]:
        answer = ask(f"{self.web}/{path}")
        assert isinstance(answer, list)
        return [Dataset.from_json(entry) for entry in answer]

    def push(self, study_uid: str) -> None:
        """Let the archive send a study to our server, as its users do."""
        (found,) = ask(f"{self.rest}/tools/lookup", study_uid.encode())  # type: ignore[misc]
        answer = ask(f"{self.rest}/modalities/spinemets/store", str(found["ID"]).encode())
        assert answer["FailedInstancesCount"] == 0  # type: ignore[index]


@contextmanager
def running_orthanc(folder: Path, **settings: object) -> Iterator[Orthanc]:
    """An empty archive with DICOMweb."""
    program = shutil.which("Orthanc", path=_PROGRAMS)
    if program is None or not _PLUGIN.is_file():
        pytest.skip("tool missing: orthanc, orthanc-dicomweb")
    node = Orthanc(free_port(), free_port(), free_port())
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "StorageDirectory": str(folder / "db"),
        "HttpPort": node.http_port,
        "DicomPort": node.dicom_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True},
        "DicomModalities": {"spinemets": [TITLE, "127.0.0.1", node.server_port]},
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(values))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or _listens(node.dicom_port), "Orthanc")
            if process.poll() is not None:
                pytest.fail(f"Orthanc did not start:\n{(folder / 'log').read_text()[-2000:]}")
            yield node
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def answering(
    answer: Callable[[str], bytes],
    context: ssl.SSLContext | None = None,
    kind: str = "application/dicom+json",
    headers: Mapping[str, str] | None = None,
    status: int = 200,
) -> Iterator[int]:
    """A web server that answers each address with what it is told to; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            content = answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Type": kind, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = int(server.server_address[1])
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield port
        finally:
            server.shutdown()
            thread.join()


class ServerProcess:
    """``spinemets serve`` in a process that can be killed and started again."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder / "work"
        self.settings, self.log = folder / "serve.yaml", folder / "serve.log"
        self.settings.write_text(yaml.safe_dump({"folder": "work", **settings}))
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [Path(sys.executable).with_name("spinemets"), "serve", self.settings, "-v"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._starts += 1
        wait_until(
            lambda: self.text.count("listening on") == self._starts or self.process.poll() is not None,
            "the server",
        )
        assert self.process.poll() is None, self.text

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def text(self) -> str:
        return self.log.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)

    def clean_up(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)


def store(
    paths: Sequence[Path],
    port: int,
    *,
    title: str = "MODALITY",
    called: str = TITLE,
    stored: Callable[[Path], None] = lambda _: None,
) -> list[int]:
    """Send files as a modality does, and give the status of each; none where the node is gone."""
    first = pydicom.dcmread(paths[0], stop_before_pixels=True)
    context = build_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
    statuses: list[int] = []
    waiting = list(paths)
    # On a busy machine pynetdicom may lose an answer; a modality sends again.
    for attempt in range(3):
        with association(port, context, title, called) as made:
            assert made.is_established or attempt
            while waiting and made.is_established:
                try:
                    status = made.send_c_store(pydicom.dcmread(waiting[0]))
                except RuntimeError:
                    break  # The node ended the connection a moment ago.
                if "Status" not in status:
                    break
                path = waiting.pop(0)
                statuses.append(status.Status)
                if status.Status == 0:
                    stored(path)
        if not waiting or not _listens(port):
            break
    return statuses


@contextmanager
def association(port: int, context: PresentationContext, title: str, called: str) -> Iterator[Association]:
    """A connection to a node here, made or refused; pynetdicom leaves some open that the node ended."""
    connections: list[socket.socket] = []
    made = AE(ae_title=title).associate(
        "127.0.0.1",
        port,
        contexts=[context],
        ae_title=called,
        evt_handlers=[(evt.EVT_CONN_OPEN, lambda event: connections.append(event.assoc.dul.socket.socket))],
    )
    try:
        yield made
    finally:
        if made.is_established:
            made.release()
        for connection in connections:
            connection.close()
