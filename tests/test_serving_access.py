"""Who may connect, and what is refused of what is sent."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage, RLELossless
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from dicom_nodes import TITLE, association, store, wait_until
from serving_sides import IMAGES, SAMPLES, listening, other_study
from spinemets.errors import NetworkError
from spinemets.serving.connections import ASKING_S
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.receiver import Receiver
from spinemets.serving.settings import LimitSettings, ReceiveSettings

OUT_OF_RESOURCES = 0xA700


def echo(port: int, title: str, called: str = TITLE) -> bool:
    with association(port, build_context(Verification), title, called) as made:
        assert made.is_established or made.is_rejected
        return made.is_established and made.send_c_echo().Status == 0


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


def test_callers_that_are_leaving_take_no_place(tmp_path, monkeypatch):
    """pynetdicom counts a caller until its thread has ended, which takes longer on a busy machine."""
    run_reactor, may_end = Association.run_reactor, threading.Event()

    def run_and_linger(acceptor: Association) -> None:
        run_reactor(acceptor)
        if acceptor.is_acceptor:
            may_end.wait()

    monkeypatch.setattr(Association, "run_reactor", run_and_linger)
    with listening(tmp_path, associations=1) as node:
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", node.port)) as caller:
                caller.sendall(b"\1\0\xff\xff\xff\xff" + bytes(50))
        wait_until(lambda: connected() == 4, "the callers that leave")
        try:
            assert echo(node.port, "MODALITY")
            assert connected() == 5
        finally:
            may_end.set()


def test_no_more_associations_than_are_allowed(tmp_path):
    context = build_context(Verification)
    with listening(tmp_path, associations=2) as node, ExitStack() as stack:
        first, second = (
            stack.enter_context(association(node.port, context, "MODALITY", TITLE)) for _ in range(2)
        )
        assert first.is_established
        assert second.is_established
        assert not echo(node.port, "MODALITY")
        first.release()
        wait_until(lambda: echo(node.port, "MODALITY"), "the place of the one that left")
        assert second.send_c_echo().Status == 0


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


def test_deflated_syntax_is_not_offered(tmp_path):
    context = build_context(MRImageStorage, [DeflatedExplicitVRLittleEndian])
    with listening(tmp_path) as node:
        with association(node.port, context, "MODALITY", TITLE) as made:
            assert made.is_established is False
        context.transfer_syntax = [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian]
        with association(node.port, context, "MODALITY", TITLE) as made:
            assert made.accepted_contexts[0].transfer_syntax == [ExplicitVRLittleEndian]


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
