"""What a node answers, or does not answer, ends neither a pull nor the server."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from itertools import count
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_nodes import TITLE, free_port
from serving_sides import IMAGES, LIMITS, SERIES, listening, other_study, remote_at, web_node
from spinemets.errors import NetworkError, OutputError, UnreadableFileError
from spinemets.serving.dimse import _kind_of
from spinemets.serving.inbox import Inbox
from spinemets.serving.pulling import Puller
from spinemets.serving.remotes import Query, RemoteSeries, connect
from spinemets.serving.settings import PullSettings, ServeSettings


def test_damaged_instance_keeps_no_other_of_its_series_from_being_pulled(queue, inbox, monkeypatch):
    whole = [pydicom.dcmread(path) for path in IMAGES]
    del whole[0].SOPInstanceUID
    with closing(remote_at(1, None, "http://localhost/dicom-web")) as node:
        monkeypatch.setattr(node._client, "iter_series", lambda *_, **__: iter(whole))
        with pytest.raises(UnreadableFileError):
            node.retrieve(RemoteSeries("1.2", "1.3", 3), inbox)
    assert queue.count_images(whole[0].StudyInstanceUID) == 2


def deflated(folder: Path) -> Path:
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "deflated.dcm")
    return folder / "deflated.dcm"


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


@pytest.mark.parametrize("host", ["no-such-host.invalid", "label-of-more-than-63-letters" * 3])
def test_name_that_does_not_resolve_is_a_network_error(host):
    node = {"kind": "dimse", "ae_title": "PACS", "host": host, "port": 104}
    values = {"folder": "unused", "receive": {"callers": "any"}, "nodes": {"pacs": node}}
    with pytest.raises(NetworkError, match=f"{host}:104"):
        connect("pacs", ServeSettings.model_validate(values)).check()


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
        (gzip.compress(b"[]", mtime=0), {"headers": {"Content-Encoding": "gzip"}}, "with compressed content"),
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


def refusal(reason: int) -> bytes:
    """What a node says that did not store an instance."""
    failed = {"00081197": {"vr": "US", "Value": [reason]}, "00081155": {"vr": "UI", "Value": ["1.2"]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [failed]}}).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [(refusal(0xA700), "reason A700"), (b"", "HTTP status 409"), (b'{"error": "no"}', "HTTP status 409")],
)
def test_object_that_a_node_refuses_keeps_no_other_from_being_sent(content, told):
    asked: list[str] = []

    def answer(path: str) -> bytes:
        asked.append(path)
        return content

    with (
        web_node(answer, status=409) as node,
        pytest.raises(NetworkError, match=rf"refused 001\.dcm with {told}; {len(IMAGES)} files in all"),
    ):
        node.send(IMAGES)
    assert len(asked) == len(IMAGES)


def test_refusal_is_read_whatever_parameters_its_kind_has():
    with (
        web_node(lambda _: refusal(0xA700), kind="application/dicom+json; charset=utf-8", status=202) as node,
        pytest.raises(NetworkError, match="with reason A700"),
    ):
        node.send(IMAGES[:1])


@pytest.mark.parametrize("reason", [0x0111, 0xB00E])
def test_object_that_a_node_has_already_counts_as_sent(reason):
    with web_node(lambda _: refusal(reason), status=409) as node:
        node.send(IMAGES)


def test_object_that_a_node_of_c_store_has_already_counts_as_sent():
    port = free_port()
    archive = AE(ae_title=TITLE)
    archive.add_supported_context(pydicom.dcmread(IMAGES[0]).SOPClassUID)
    storing = [(evt.EVT_C_STORE, lambda _: 0x0111)]
    running = archive.start_server(("127.0.0.1", port), block=False, evt_handlers=storing)
    try:
        remote_at(port, None).send(IMAGES)
    finally:
        running.shutdown()


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
