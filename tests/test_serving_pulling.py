"""What is pulled from a node: every study once, whatever becomes of another, and what comes to it later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest

from serving_sides import IMAGES, SERIES, web_node
from spinemets.errors import NetworkError, UnreadableFileError
from spinemets.serving.inbox import Inbox
from spinemets.serving.pulling import pull
from spinemets.serving.remotes import Query, RemoteSeries


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


@pytest.mark.parametrize("uid", ["\ud800", "../../1.2", "1.2/../3", "1.2 3", "1" * 65, "1\0"])
def test_study_whose_uid_is_none_is_passed_over(queue, inbox, caplog, uid):
    archive = Archive(RemoteSeries(uid, "1.3", 1), RemoteSeries("1.2.2", "1.2.2.1", 1))
    assert pull(archive, Query(), queue, inbox, 10).retrieved == 1
    assert [study.uid for study in queue.studies()] == ["1.2.2"]
    assert "1 series are passed over" in caplog.text


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
