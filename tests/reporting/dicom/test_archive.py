"""A real archive, Orthanc, takes every object and files it under the source's study."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from spinemets.config import ReportConfig
from spinemets.reporting.dicom import write_dicom

FORMATS = ("dicom-seg", "dicom-sr", "dicom-pdf", "dicom-sc", "dicom-rtstruct")
STARTING_S = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[str]:
    """The address of an empty archive on this machine's loopback."""
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("tool missing: orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomPort": free_port(),
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process, folder / "log")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            ask(f"{address}/system")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"Orthanc did not start:\n{log.read_text()[-2000:]}")


def ask(url: str, content: bytes | None = None) -> object:
    request = urllib.request.Request(url, data=content)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_every_object_is_stored_in_the_study_of_its_source(orthanc, case, tmp_path):
    made = case("sagittal", "dicom-seg")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    paths = write_dicom(made.report, tmp_path, ReportConfig(formats=FORMATS), tmp_path / "report.pdf")
    for path in [*made.source.iterdir(), *paths]:
        stored = ask(f"{orthanc}/instances", path.read_bytes())
        assert stored["Status"] == "Success", path.name
    (study,) = ask(f"{orthanc}/studies?expand")
    assert study["MainDicomTags"]["StudyInstanceUID"] == made.report.study.uid
    assert study["PatientMainDicomTags"]["PatientName"] == "Müller^Änne"
    series = ask(f"{orthanc}/series?expand")
    modalities = sorted(entry["MainDicomTags"]["Modality"] for entry in series)
    assert modalities == ["DOC", "MR", "OT", "RTSTRUCT", "SEG", "SEG", "SEG", "SR"]


def test_same_result_sent_again_is_known(orthanc, case, tmp_path):
    made = case("sagittal", "dicom-seg")
    for folder in ("first", "second"):
        write_dicom(made.report, tmp_path / folder, ReportConfig(formats=("dicom-seg",)))
    ask(f"{orthanc}/instances", (tmp_path / "first/dicom/levels.seg.dcm").read_bytes())
    again = ask(f"{orthanc}/instances", (tmp_path / "second/dicom/levels.seg.dcm").read_bytes())
    assert again["Status"] == "AlreadyStored"


def test_corrected_name_reaches_the_archive(orthanc, case, report_of, tmp_path):
    made = case("sagittal", "dicom-seg")
    corrected = tmp_path / "corrected"
    corrected.mkdir()
    for path in made.source.iterdir():
        image = pydicom.dcmread(path)
        image.PatientName = "Corrected^Name"
        image.save_as(corrected / path.name)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7")
    for name, report in (("first", made.report), ("again", report_of(corrected))):
        config = ReportConfig(formats=FORMATS)
        for path in write_dicom(report, tmp_path / name, config, tmp_path / "report.pdf", "a study"):
            stored = ask(f"{orthanc}/instances", path.read_bytes())
            assert name == "first" or stored["Status"] == "Success", path.name
            tags = ask(f"{orthanc}/instances/{stored['ID']}/simplified-tags")
            assert tags["PatientName"] == str(pydicom.dcmread(path).PatientName)
            assert (name == "again") == (tags["PatientName"] == "Corrected^Name")


def test_pixels_come_back_as_they_were(orthanc, case, tmp_path):
    made = case("sagittal", "dicom-seg")
    path = made.objects / "lesions.seg.dcm"
    ask(f"{orthanc}/instances", path.read_bytes())
    uid = pydicom.dcmread(path).SOPInstanceUID
    (found,) = ask(f"{orthanc}/tools/lookup", uid.encode())
    with urllib.request.urlopen(f"{orthanc}/instances/{found['ID']}/file", timeout=30) as answer:
        (tmp_path / "back.dcm").write_bytes(answer.read())
    assert pydicom.dcmread(tmp_path / "back.dcm").PixelData == pydicom.dcmread(path).PixelData
