"""Both sides of a connection between DICOM nodes, to try one with the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pydicom

from dicom_nodes import TITLE, answering, free_port
from spinemets.serving.dicomweb import WebRemote
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.receiver import Receiver
from spinemets.serving.remotes import connect
from spinemets.serving.settings import LimitSettings, ServeSettings
from spinemets.serving.study_queue import StudyQueue

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples/dicom"
IMAGES = sorted((SAMPLES / "1_Localizer").glob("*.dcm"))
LIMITS: dict[str, object] = {}
# A series as a DICOMweb node answers with it.
SERIES = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": {"vr": "UI", "Value": ["1.3"]}}


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


def other_study(folder: Path, uid: str) -> Path:
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.StudyInstanceUID = uid
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1"
    folder.mkdir(exist_ok=True)
    dataset.save_as(folder / f"{uid}.dcm")
    return folder / f"{uid}.dcm"


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


@contextmanager
def web_node(answer: Callable[[str], bytes], **options: object) -> Iterator[WebRemote]:
    """A DICOMweb node that answers each address with what it is told to."""
    with (
        answering(answer, **options) as port,
        closing(remote_at(1, None, f"http://127.0.0.1:{port}/dicom-web")) as node,
    ):
        yield node
