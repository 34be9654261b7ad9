"""Who may connect, what is refused, and TLS in both directions, with a real Orthanc on the other side."""

from __future__ import annotations

import gzip
import json
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cache
from io import BytesIO
from itertools import count
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage, RLELossless
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_nodes import (
    TITLE,
    ServerProcess,
    answering,
    association,
    free_port,
    running_orthanc,
    store,
)
from spinemets.cli import main
from spinemets.errors import ConfigError, NetworkError, OutputError, UnreadableFileError
from spinemets.serving.connections import ASKING_S
from spinemets.serving.dicomweb import WebRemote
from spinemets.serving.dimse import _kind_of
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.pulling import Puller, pull
from spinemets.serving.receiver import Receiver
from spinemets.serving.remotes import Query, RemoteSeries, connect
from spinemets.serving.settings import LimitSettings, PullSettings, ReceiveSettings, ServeSettings
from spinemets.serving.study_queue import StudyQueue

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples/dicom"
IMAGES = sorted((SAMPLES / "1_Localizer").glob("*.dcm"))
OUT_OF_RESOURCES = 0xA700
LIMITS: dict[str, object] = {}


@contextmanager
def listening(
    folder: Path, limits: LimitSettings | None = None, **receive: object
) -> Iterator[SimpleNamespace]:
    """A receiver with its queue."""
    port = free_port()
    settings = ServeSettings.model_validate(
        {"folder": folder, "receive": {"callers": ["MODALITY"], "port": port, **receive}}
    )
    queue = StudyQueue(Folders(folder).queue)
    limits = limits or LimitSettings(free_gib=0)
    receiver = Receiver(settings.receive, Inbox(Folders(folder), queue, limits), limits.object_gib * 2**30)
    receiver.start()
    try:
        yield SimpleNamespace(port=port, queue=queue, settings=settings, folder=folder)
    finally:
        receiver.stop(1.0)
        queue.close()


def echo(port: int, title: str, called: str = TITLE) -> bool:
    with association(port, build_context(Verification), title, called) as made:
        assert made.is_established or made.is_rejected
        return made.is_established and made.send_c_echo().Status == 0


def other_study(folder: Path, uid: str) -> Path:
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.StudyInstanceUID = uid
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1"
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / f"{uid}.dcm")
    return folder / f"{uid}.dcm"


def test_only_callers_on_the_list_may_connect(tmp_path):
    with listening(tmp_path) as node:
        assert echo(node.port, "MODALITY")
        assert not echo(node.port, "STRANGER")
        assert not echo(node.port, "MODALITY", called="ANOTHER")


def test_any_caller_may_connect_where_that_is_asked_for(tmp_path):
    with listening(tmp_path, callers="any") as node:
        assert echo(node.port, "STRANGER")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x04\0\0\0\0\0"])
def test_callers_that_leave_without_asking_for_anything_are_not_in_the_way(tmp_path, said):
    with listening(tmp_path, associations=2) as node:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", node.port)) as caller:
                caller.sendall(said)
        start = time.monotonic()
        while not echo(node.port, "MODALITY"):
            assert time.monotonic() - start < 20
            time.sleep(0.1)


@pytest.fixture
def impatient(monkeypatch) -> None:
    for module in ("receiver", "connections"):
        monkeypatch.setattr(f"spinemets.serving.{module}.ASKING_S", 2.0)
        monkeypatch.setattr(f"spinemets.serving.{module}.SILENT_S", 5.0)


def connected() -> int:
    return sum("AcceptorThread" in thread.name for thread in threading.enumerate())


def ends(within_s: float = 20.0) -> bool:
    """Whether nobody is connected any more before so long."""
    deadline = time.monotonic() + within_s
    while connected() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not connected()


@pytest.mark.usefixtures("impatient")
def test_callers_that_stay_and_are_silent_are_not_in_the_way_and_are_ended(tmp_path):
    half_a_request = b"\1\0\0\0\0\xc8" + bytes(50)
    request_of_4_gib = b"\1\0\xff\xff\xff\xff" + bytes(50)
    with listening(tmp_path, associations=1) as node, ExitStack() as stack:
        for said in (b"", b"\1\0\0", b"\1\0\0\0\0\xc8", half_a_request, request_of_4_gib):
            caller = stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            caller.sendall(said)
        time.sleep(0.3)
        assert echo(node.port, "MODALITY")
        assert ends()


@pytest.mark.usefixtures("impatient")
def test_associations_that_fall_silent_are_ended(tmp_path):
    context = build_context(Verification)
    with listening(tmp_path, associations=2) as node, ExitStack() as stack:
        for said in (b"", b"\4\0\0\0\x10\0" + bytes(20)):
            made = stack.enter_context(association(node.port, context, "MODALITY", TITLE))
            assert made.is_established
            made.dul.socket.socket.sendall(said)
        assert not echo(node.port, "MODALITY")
        assert ends()
        assert echo(node.port, "MODALITY")


def hung_up(callers: Sequence[socket.socket], expected: int, within_s: float) -> int:
    """How many connections, of which none was told anything, the other side has ended."""
    deadline = time.monotonic() + within_s
    while len(ended := select.select(callers, [], [], 0.1)[0]) < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(ended)


def test_crowd_of_silent_callers_is_not_let_in(tmp_path, monkeypatch):
    monkeypatch.setattr("spinemets.serving.receiver._MOST_SILENT", 3)
    with listening(tmp_path, associations=1) as node:
        with ExitStack() as stack:
            callers = [
                stack.enter_context(socket.create_connection(("127.0.0.1", node.port))) for _ in range(12)
            ]
            # Those that are let in may stay silent for longer than this.
            assert hung_up(callers, 8, within_s=ASKING_S / 2) == 8
        assert ends()
        assert echo(node.port, "MODALITY")


def test_object_that_is_larger_than_allowed_is_not_taken(tmp_path):
    size = IMAGES[0].stat().st_size
    with listening(tmp_path, LimitSettings(free_gib=0, object_gib=size / 2 / 2**30)) as node:
        with association(node.port, build_context(MRImageStorage), "MODALITY", TITLE) as made:
            assert not made.send_c_store(IMAGES[0])
        assert not node.queue.studies()
    with listening(tmp_path, LimitSettings(free_gib=0, object_gib=1.5 * size / 2**30)) as node:
        assert store(IMAGES, node.port) == [0, 0, 0]


def test_an_empty_list_of_callers_is_refused():
    with pytest.raises(ValidationError, match="callers"):
        ReceiveSettings.model_validate({"callers": []})


class Archive:
    """A node with some series of one image each; it does not give those that it has lost."""

    def __init__(self, *series: RemoteSeries, lost: Sequence[str] = ()) -> None:
        self.series, self.lost, self.asked = series, list(lost), 0

    def find(self, _: Query) -> tuple[RemoteSeries, ...]:
        return self.series

    def retrieve(self, series: RemoteSeries, inbox: Inbox) -> None:
        self.asked += 1
        if series.uid in self.lost:
            raise NetworkError("archive: answered the retrieval with HTTP status 500")
        if series.uid == "damaged":
            inbox.take(b"no DICOM file")
        inbox.take(image_of(series.study_uid, series.uid))


def image_of(study_uid: str, series_uid: str) -> bytes:
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{series_uid}.1"
    content = BytesIO()
    dataset.save_as(content)
    return content.getvalue()


@pytest.fixture
def queue(tmp_path) -> Iterator[StudyQueue]:
    with closing(StudyQueue(Folders(tmp_path).queue)) as opened:
        yield opened


@pytest.fixture
def inbox(tmp_path, queue) -> Inbox:
    return Inbox(Folders(tmp_path), queue, LimitSettings(free_gib=0))


def test_a_damaged_instance_does_not_keep_other_studies_from_being_pulled(queue, inbox):
    with pytest.raises(UnreadableFileError):
        inbox.take(b"no DICOM file")
    archive = Archive(RemoteSeries("1.2.1", "damaged", 1), RemoteSeries("1.2.2", "1.2.2.1", 1))
    pulled = pull(archive, Query(), queue, inbox, 10)
    assert pulled.retrieved == 1
    assert len(pulled.failures) == 1


@pytest.mark.parametrize("said", [1, 0], ids=["with counts", "without counts"])
def test_series_that_fails_keeps_no_other_from_being_pulled_and_is_tried_again(queue, inbox, said):
    series = [RemoteSeries("1.2.1", f"1.2.1.{number}", said) for number in range(3)]
    archive = Archive(*series, lost=["1.2.1.0", "1.2.1.1"])
    for _ in range(2):
        pulled = pull(archive, Query(), queue, inbox, 10)
        assert (pulled.retrieved, pulled.known, len(pulled.failures)) == (0, 0, 1)
        assert queue.count_images("1.2.1") == 1
    archive.lost.clear()
    assert pull(archive, Query(), queue, inbox, 10).retrieved == 1
    assert queue.count_images("1.2.1") == 3
    # And then never again, until there is a further series.
    archive.asked = 0
    assert pull(archive, Query(), queue, inbox, 10).known == 1
    assert archive.asked == 0
    archive.series += (RemoteSeries("1.2.1", "1.2.1.3", said),)
    assert pull(archive, Query(), queue, inbox, 10).retrieved == 1
    assert queue.count_images("1.2.1") == 4


def test_damaged_instance_keeps_no_other_of_its_series_from_being_pulled(queue, inbox, monkeypatch):
    whole = [pydicom.dcmread(path) for path in IMAGES]
    del whole[0].SOPInstanceUID
    with closing(remote_at(1, None, "http://localhost/dicom-web")) as node:
        monkeypatch.setattr(node._client, "iter_series", lambda *_, **__: iter(whole))
        with pytest.raises(UnreadableFileError):
            node.retrieve(RemoteSeries("1.2", "1.3", 3), inbox)
    assert queue.count_images(whole[0].StudyInstanceUID) == 2


def test_new_study_is_refused_while_the_queue_is_full(tmp_path):
    with listening(tmp_path, LimitSettings(studies=1, free_gib=0)) as node:
        assert store(IMAGES[:1], node.port) == [0]
        assert store([other_study(tmp_path / "files", "1.2.3")], node.port) == [OUT_OF_RESOURCES]
        # What was begun is completed.
        assert store(IMAGES[1:], node.port) == [0, 0]
        (study,) = node.queue.studies()
        assert study.images == 3


def test_everything_is_refused_while_the_disk_is_full(tmp_path):
    with listening(tmp_path, LimitSettings(free_gib=1e6)) as node:
        assert store(IMAGES, node.port) == [OUT_OF_RESOURCES] * 3
        assert not list(tmp_path.rglob("*.dcm"))
        assert not node.queue.studies()


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "inbox").write_text("in the way of a folder")
    with listening(tmp_path) as node:
        assert store(IMAGES, node.port) == [OUT_OF_RESOURCES] * 3
        assert [study.images for study in node.queue.studies()] == [0]


def test_compressed_images_are_kept_as_they_are_sent(tmp_path):
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "compressed.dcm")
    with listening(tmp_path / "server") as node:
        assert store([tmp_path / "compressed.dcm"], node.port) == [0]
    (kept,) = map(pydicom.dcmread, (tmp_path / "server/inbox").rglob("*.dcm"))
    assert kept.file_meta.TransferSyntaxUID == RLELossless
    assert kept.PixelData == dataset.PixelData


def deflated(folder: Path) -> Path:
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "deflated.dcm")
    return folder / "deflated.dcm"


def test_deflated_syntax_is_not_offered(tmp_path):
    context = build_context(MRImageStorage, [DeflatedExplicitVRLittleEndian])
    with listening(tmp_path) as node:
        with association(node.port, context, "MODALITY", TITLE) as made:
            assert made.is_established is False
        context.transfer_syntax = [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian]
        with association(node.port, context, "MODALITY", TITLE) as made:
            assert made.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]


def without_vrs(content: bytes) -> bytes:
    """The same with file meta information in implicit VR, which pydicom reads too."""
    (length,) = struct.unpack_from("<I", content, 140)
    syntax = f"{DeflatedExplicitVRLittleEndian}".encode()
    meta = struct.pack("<HHLL", 2, 0, 4, 8 + len(syntax)) + struct.pack("<HHL", 2, 0x10, len(syntax)) + syntax
    return content[:132] + meta + content[144 + length :]


@pytest.mark.parametrize("written", [bytes, without_vrs])
def test_deflated_object_is_refused_before_it_grows(tmp_path, queue, inbox, monkeypatch, written):
    def inflate(*_: object) -> None:
        pytest.fail("was inflated")

    content = written(deflated(tmp_path).read_bytes())
    monkeypatch.setattr("zlib.decompress", inflate)
    with pytest.raises(UnreadableFileError, match="is deflated"):
        inbox.take(content)
    assert not queue.studies()


def test_deflated_object_of_a_dicomweb_node_is_passed_over(tmp_path, queue, inbox, monkeypatch):
    small, whole = deflated(tmp_path).read_bytes(), IMAGES[1].read_bytes()
    head, end = b"--part\r\nContent-Type: application/dicom\r\n\r\n", b"\r\n--part--"
    several = head + small + b"\r\n" + head + whole + end
    monkeypatch.setattr("zlib.decompress", lambda *_: pytest.fail("was inflated"))
    for content, kind in (
        (several, 'multipart/related; type="application/dicom"; boundary=part'),
        (small, "application/dicom"),
    ):
        with (
            web_node(lambda _, content=content: content, kind=kind) as node,
            pytest.raises(UnreadableFileError, match="is deflated"),
        ):
            node.retrieve(RemoteSeries("1.2", "1.3", 2), inbox)
    assert [study.images for study in queue.studies()] == [1]


def test_several_modalities_may_send_one_study_at_once(tmp_path):
    folders = ("1_Localizer", "2_T2_TSE_sag", "3_T1_TSE_sag")
    series = [sorted((SAMPLES / folder).glob("*.dcm")) for folder in folders]
    with listening(tmp_path) as node, ThreadPoolExecutor(len(series)) as together:
        statuses = together.map(lambda paths: store(paths, node.port), series)
        assert {status for answers in statuses for status in answers} == {0}
        (study,) = node.queue.studies()
        assert study.images == sum(map(len, series)) == len(list(tmp_path.rglob("*.dcm")))


def test_port_in_use_is_a_network_error(tmp_path):
    with listening(tmp_path / "one") as node:
        inbox = Inbox(Folders(tmp_path), node.queue, LimitSettings())
        with pytest.raises(NetworkError, match="cannot be listened on"):
            Receiver(node.settings.receive, inbox).start()


# What a node says or does not say must not end the server


@pytest.mark.parametrize("host", ["no-such-host.invalid", "label-of-more-than-63-letters" * 3])
def test_name_that_does_not_resolve_is_a_network_error(host):
    node = {"kind": "dimse", "ae_title": "PACS", "host": host, "port": 104}
    values = {"folder": "unused", "receive": {"callers": "any"}, "nodes": {"pacs": node}}
    with pytest.raises(NetworkError, match=f"{host}:104"):
        connect("pacs", ServeSettings.model_validate(values)).check()


@contextmanager
def web_node(answer: Callable[[str], bytes], **options: object) -> Iterator[WebRemote]:
    """A DICOMweb node that answers each address with what it is told to."""
    with (
        answering(answer, **options) as port,
        closing(remote_at(1, None, f"http://127.0.0.1:{port}/dicom-web")) as node,
    ):
        yield node


SERIES = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": {"vr": "UI", "Value": ["1.3"]}}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"error": "x"},
        5,
        [None],
        [{"0020000D": None}],
        [{"0020000D": {"vr": "UI", "Value": 5}}],
        [{**SERIES, "00201209": {"vr": "IS", "Value": [1, 2]}}],
    ],
    ids=json.dumps,
)
def test_answer_that_is_not_dicomweb_is_a_network_error(queue, inbox, answer):
    with web_node(lambda _: json.dumps(answer).encode()) as node:
        with pytest.raises(NetworkError, match="not DICOMweb"):
            node.find(Query())
        # Whoever pulls goes on after a pause.
        assert Puller(PullSettings(node="it", every_s=7), node, queue, inbox, 10).step() == 7


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"<html>log in</html>", {"kind": "text/html; charset=utf-8"}, "with a web page"),
        (b"soon", {"kind": "text/plain"}, "with what is no JSON"),
        (b"[{", {}, "with what is no JSON"),
        (
            b"",
            {"status": 302, "headers": {"Location": "http://localhost:1/x"}},
            "with a redirection to another",
        ),
        (gzip.compress(b"[]"), {"headers": {"Content-Encoding": "gzip"}}, "with compressed content"),
        (b"[]", {"status": 404, "kind": "text/html"}, "with HTTP status 404"),
    ],
)
def test_answer_to_a_search_is_told_for_what_it_is(content, options, told):
    with web_node(lambda _: content, **options) as node, pytest.raises(NetworkError, match=told):
        node.find(Query())


def test_compressed_answer_is_refused_before_it_grows(monkeypatch):
    monkeypatch.setattr("urllib3.response._get_decoder", lambda *_: pytest.fail("was decompressed"))
    options = {"headers": {"Content-Encoding": "gzip"}, "kind": 'multipart/related; boundary="part"'}
    with web_node(lambda _: gzip.compress(bytes(10**6)), **options) as node:
        with pytest.raises(NetworkError, match="compressed content"):
            node.check()
        with pytest.raises(NetworkError, match="compressed content"):
            node.retrieve(RemoteSeries("1.2", "1.3", 1), None)


def test_object_without_end_is_not_taken_and_those_before_it_are(queue, inbox, monkeypatch):
    head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
    several = b"\r\n".join(head + path.read_bytes() for path in IMAGES) + b"\r\n" + head + bytes(10**7)
    options = {"kind": 'multipart/related; type="application/dicom"; boundary=part'}
    monkeypatch.setitem(LIMITS, "object_gib", 0.003)
    assert len(several) > 10**7 > 0.003 * 2**30 > len(IMAGES[0].read_bytes())
    with (
        web_node(lambda _: several, **options) as node,
        pytest.raises(NetworkError, match=r"more than 0.003 GiB at once \(limits.object_gib\)"),
    ):
        node.retrieve(RemoteSeries("1.2", "1.3", 2), inbox)
    assert [study.images for study in queue.studies()] == [3]


def test_search_without_end_is_ended(monkeypatch):
    monkeypatch.setattr("spinemets.serving.dicomweb._MOST_ANSWERS", 1000)
    numbers = count()

    def answer(_: str) -> bytes:
        uids = [f"1.2.{next(numbers)}" for _ in range(200)]
        return json.dumps([{"0020000D": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()

    with web_node(answer) as node, pytest.raises(NetworkError, match="more than 1000 results"):
        node.find(Query())


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<unclosed", "application/dicom+xml"),
        (b'{"00081198": {"vr": "LO", "Value": ["x"]}}', "application/dicom+json"),
        (b"<html>log in</html>", "text/html"),
    ],
)
def test_answer_to_a_storing_that_is_none_is_a_network_error(content, kind):
    with (
        web_node(lambda _: content, kind=kind) as node,
        pytest.raises(NetworkError, match=r"of 001\.dcm with"),
    ):
        node.send(IMAGES[:1])


class Uncounted:
    """A DICOMweb node that does not count the images of a series, but lists them."""

    def __init__(self, *files: Path) -> None:
        self.files = list(files)
        self.retrieved = 0

    def __call__(self, address: str) -> bytes:
        path = urlsplit(address).path
        offset = int(parse_qs(urlsplit(address).query).get("offset", ["0"])[0])
        if path.endswith("/instances"):
            uids = [pydicom.dcmread(file).SOPInstanceUID for file in self.files]
            return json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids][offset:]).encode()
        if "limit" in address:
            return json.dumps([{**SERIES, "0020000D": {"vr": "UI", "Value": [self.study]}}][offset:]).encode()
        self.retrieved += 1
        head = b"--part\r\nContent-Type: application/dicom\r\n\r\n"
        return b"\r\n".join(head + file.read_bytes() for file in self.files) + b"\r\n--part--"

    study = str(pydicom.dcmread(IMAGES[0]).StudyInstanceUID)


def test_image_that_comes_later_to_a_series_without_a_count_is_pulled(queue, inbox):
    archive = Uncounted(*IMAGES[:2])
    kind = 'multipart/related; type="application/dicom+json"; boundary=part'
    with web_node(archive, kind=kind) as node:
        assert pull(node, Query(), queue, inbox, 10).retrieved == 1
        assert pull(node, Query(), queue, inbox, 10).known == 1
        archive.files.append(IMAGES[2])
        assert pull(node, Query(), queue, inbox, 10).retrieved == 1
        assert pull(node, Query(), queue, inbox, 10).known == 1
    assert archive.retrieved == 2
    assert queue.count_images(archive.study) == 3


@pytest.mark.parametrize("lists", [True, False])
def test_node_that_counts_no_images_is_asked_for_them_by_c_find(lists):
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        if level == "IMAGE" and not lists:
            yield 0xA900, None
            return
        for number in range(3 if level == "IMAGE" else 1):
            answer = Dataset()
            answer.StudyInstanceUID, answer.SeriesInstanceUID = "1.2", "1.3"
            answer.SOPInstanceUID = f"1.4.{number}"
            yield 0xFF00, answer

    port = free_port()
    archive = AE(ae_title=TITLE)
    archive.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    running = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    try:
        assert remote_at(port, None).find(Query()) == (RemoteSeries("1.2", "1.3", 3 if lists else 0),)
    finally:
        running.shutdown()


@pytest.mark.parametrize("uid", ["\ud800", "../../1.2", "1.2/../3", "1.2 3", "1" * 65, "1\0"])
def test_study_whose_uid_is_none_is_passed_over(queue, inbox, caplog, uid):
    archive = Archive(RemoteSeries(uid, "1.3", 1), RemoteSeries("1.2.2", "1.2.2.1", 1))
    assert pull(archive, Query(), queue, inbox, 10).retrieved == 1
    assert [study.uid for study in queue.studies()] == ["1.2.2"]
    assert "1 series are passed over" in caplog.text


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "answer", [b"\2\0\0\0\1\0abc", b"\2\0\xff\xff\xff\xff" + bytes(100)], ids=["half", "4 GiB"]
)
def test_node_that_sends_half_an_answer_is_not_waited_for(answer, monkeypatch):
    monkeypatch.setattr("spinemets.serving.dimse._CONNECTING_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as node:
        callers: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    callers.append(node.accept()[0])
                    callers[-1].recv(10)
                    callers[-1].sendall(answer)

        Thread(target=accept, daemon=True).start()
        with pytest.raises(NetworkError, match="not to be reached"):
            remote_at(node.getsockname()[1], None).check()
        node.shutdown(socket.SHUT_RDWR)
    for caller in callers:
        caller.close()


@pytest.mark.parametrize(("said", "taken"), [(13, 13), (-1, 0), (10**30, 0)])
def test_number_of_images_that_no_series_can_have_is_not_believed(said, taken):
    answer = [{**SERIES, "00201209": {"vr": "IS", "Value": [said]}}]
    with web_node(lambda _: json.dumps(answer).encode()) as node:
        assert [series.images for series in node.find(Query())] == [taken]


@pytest.mark.parametrize("most", [100, None], ids=["at most 100 at once", "all each time"])
def test_every_study_and_series_is_found_however_many_a_node_gives_at_once(most):
    def answer(address: str) -> bytes:
        parts = urlsplit(address)
        offset, limit = (int(parse_qs(parts.query)[name][0]) for name in ("offset", "limit"))
        part = slice(None) if most is None else slice(offset, offset + min(limit, most))
        if not parts.path.endswith("/series"):
            studies = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(230)]
            return json.dumps(studies[part]).encode()
        count = 210 if parts.path.endswith("/1.2.7/series") else 1
        uids = [f"1.3.{n}" for n in range(count)]
        return json.dumps([{"0020000E": {"vr": "UI", "Value": [uid]}} for uid in uids][part]).encode()

    with web_node(answer) as node:
        found = node.find(Query())
    assert len({series.study_uid for series in found}) == 230
    assert len(found) == len(set(found)) == 229 + 210


def test_answer_to_c_find_that_cannot_be_read_is_a_network_error():
    answer = Dataset()
    answer.StudyInstanceUID = answer.SeriesInstanceUID = "1.2"
    answer.NumberOfSeriesRelatedInstances = [1, 2]
    port = free_port()
    archive = AE(ae_title=TITLE)
    archive.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    finding = [(evt.EVT_C_FIND, lambda _: iter([(0xFF00, answer)]))]
    running = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=finding)
    try:
        with pytest.raises(NetworkError, match="cannot be read"):
            remote_at(port, None).find(Query())
    finally:
        running.shutdown()


def test_result_that_is_replaced_while_it_is_sent_is_told(tmp_path, monkeypatch):
    files = [other_study(tmp_path / "files", uid) for uid in ("1.2.1", "1.2.2")]
    take = Inbox.take

    def take_and_remove_the_next(inbox: Inbox, content: bytes) -> None:
        take(inbox, content)
        files[1].unlink(missing_ok=True)

    monkeypatch.setattr(Inbox, "take", take_and_remove_the_next)
    monkeypatch.setattr("spinemets.serving.dimse._kind_of", cache(_kind_of))
    with listening(tmp_path / "node") as node, pytest.raises(OutputError, match="cannot be read"):
        remote_at(node.port, None).send(files)


# TLS


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


def remote_at(port: int, tls: dict[str, str] | None, url: str = ""):
    node: dict[str, object] = {"kind": "dimse", "ae_title": TITLE, "host": "127.0.0.1", "port": port}
    if url:
        node = {"kind": "dicomweb", "url": url}
    values = {
        "folder": "unused",
        "receive": {"callers": "any", "ae_title": "MODALITY"},
        "nodes": {"it": node if tls is None else {**node, "tls": tls}},
        "limits": LIMITS,
    }
    return connect("it", ServeSettings.model_validate(values))


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
