"""The server between real nodes: studies come, are analysed by the included model, and results go back."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner

from dicom_nodes import Orthanc, ServerProcess, running_orthanc, store, wait_until
from spinemets.bundles import load_bundle
from spinemets.cli import main, spinemets
from spinemets.errors import ModelNotFoundError
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.pulling import Puller
from spinemets.serving.queued_study import QueuedStudy, StudyState
from spinemets.serving.receiver import Receiver
from spinemets.serving.remotes import Query, connect
from spinemets.serving.settings import PullSettings, ServeSettings, load_settings
from spinemets.serving.study_queue import StudyQueue

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples/dicom"
ONE_SERIES = sorted((SAMPLES / "4_STIR_sag").glob("*.dcm"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as node:
        yield node


@pytest.fixture
def server(orthanc, tmp_path) -> Iterator[ServerProcess]:
    try:
        load_bundle()
    except ModelNotFoundError as error:
        pytest.skip(f"no default model: {error}")
    archive = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    settings = {
        "receive": {"callers": ["ORTHANC", "MODALITY"], "port": orthanc.server_port},
        "nodes": {"archive": archive, "web": {"kind": "dicomweb", "url": orthanc.web}},
        "analysis": {
            "idle_s": 1.0,
            "device": "cpu",
            "formats": ["json", "dicom-seg", "dicom-sr", "dicom-pdf", "dicom-sc"],
        },
        "send": {"to": ["archive"], "first_pause_s": 1},
        "limits": {"free_gib": 0, "ending_s": 1},
    }
    process = ServerProcess(tmp_path, settings)
    yield process
    process.clean_up()


def only_study(server: ServerProcess) -> QueuedStudy | None:
    queue = StudyQueue(Folders(server.folder).queue)
    try:
        studies = queue.studies()
        assert len(studies) <= 1
        return studies[0] if studies else None
    finally:
        queue.close()


def reaches(server: ServerProcess, state: StudyState) -> Callable[[], bool]:
    def check() -> bool:
        study = only_study(server)
        assert study is None or study.state is not StudyState.FAILED, server.text
        return study is not None and study.state is state

    return check


def datasets(folder: Path) -> Counter[bytes]:
    return Counter(pydicom.dcmread(path).PixelData for path in folder.rglob("*.dcm"))


@pytest.mark.timeout(900)
def test_study_is_analysed_and_filed_though_the_server_is_killed_twice(orthanc, server):
    orthanc.upload(ONE_SERIES)
    header = pydicom.dcmread(ONE_SERIES[0], stop_before_pixels=True)

    # Killed while it receives: what it has confirmed is there.
    server.start()
    confirmed: list[Path] = []

    def kill_in_the_middle(path: Path) -> None:
        confirmed.append(path)
        if len(confirmed) == 6:
            server.end(signal.SIGKILL)

    store(ONE_SERIES, orthanc.server_port, stored=kill_in_the_middle)
    assert len(confirmed) == 6
    kept = datasets(server.folder / "inbox")
    assert all(kept[pydicom.dcmread(path).PixelData] == 1 for path in confirmed)

    # Killed while it analyses: the study begins again.
    server.start()
    orthanc.push(header.StudyInstanceUID)
    assert datasets(server.folder / "inbox") == datasets(SAMPLES / "4_STIR_sag")
    wait_until(reaches(server, StudyState.RUNNING), "the analysis")
    server.end(signal.SIGKILL)
    assert not list((server.folder / "results").glob("study-*"))

    server.start()
    wait_until(reaches(server, StudyState.SENT), "the results")
    (study,) = orthanc.qido("studies")
    assert study.StudyInstanceUID == header.StudyInstanceUID
    series = orthanc.qido(f"studies/{header.StudyInstanceUID}/series?includefield=all")
    counts = {one.SeriesDescription: (one.Modality, one.NumberOfSeriesRelatedInstances) for one in series}
    assert sorted(modality for modality, _ in counts.values()) == [
        "DOC",
        "MR",
        "OT",
        "SEG",
        "SEG",
        "SEG",
        "SR",
    ]
    written = list((server.folder / "results").glob("study-*/dicom/*.dcm"))
    assert sum(count for _, count in counts.values()) == len(ONE_SERIES) + len(written)

    # The same study again, with our own results in it, is no reason to begin again.
    before = only_study(server)
    orthanc.push(header.StudyInstanceUID)
    assert only_study(server) == before

    assert server.end(signal.SIGTERM) == 0
    for private in (header.PatientName.family_name, header.PatientID, header.StudyInstanceUID):
        assert str(private) not in server.text


@pytest.fixture
def receiving(orthanc, tmp_path) -> Iterator[tuple[ServeSettings, StudyQueue, Path]]:
    """Settings, queue and settings file of a server of which the receiver alone runs."""
    archive = {"kind": "dimse", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.dicom_port}
    process = ServerProcess(
        tmp_path,
        {
            "receive": {"callers": ["ORTHANC"], "port": orthanc.server_port},
            "nodes": {"archive": archive, "web": {"kind": "dicomweb", "url": orthanc.web}},
            "limits": {"free_gib": 0},
        },
    )
    settings = load_settings(process.settings)
    folders = Folders(settings.folder)
    queue = StudyQueue(folders.queue)
    receiver = Receiver(settings.receive, Inbox(folders, queue, settings.limits))
    receiver.start()
    yield settings, queue, process.settings
    receiver.stop(1.0)
    queue.close()


def renamed_localiser(folder: Path, name: str, date: str = "20200101") -> tuple[str, list[Path]]:
    """The sample's localiser as a study of its own: its UID and files."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = pydicom.uid.generate_uid(entropy_srcs=[name])[:48]
    paths = []
    for number, source in enumerate(sorted((SAMPLES / "1_Localizer").glob("*.dcm"))):
        dataset = pydicom.dcmread(source)
        dataset.StudyInstanceUID = uid
        dataset.AccessionNumber, dataset.StudyDate = name, date
        dataset.SeriesInstanceUID = f"{uid}.1"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.1.{number}"
        paths.append(folder / f"{name}-{number}.dcm")
        dataset.save_as(paths[-1])
    return str(uid), paths


@pytest.mark.parametrize("node", ["web", "archive"])
def test_study_is_fetched_by_dicomweb_and_by_c_move(orthanc, receiving, tmp_path, node):
    settings, queue, path = receiving
    uid, files = renamed_localiser(tmp_path / "files", f"pull-{node}")
    orthanc.upload(files)
    command = ["fetch", str(path), node, "--study", uid]
    done = CliRunner().invoke(spinemets, command, standalone_mode=False)
    assert done.return_value == 0, done.output
    assert "1 studies fetched, 0 were here already" in done.output
    (study,) = queue.studies()
    assert (study.uid, study.images) == (uid, len(files))
    assert datasets(settings.folder / "inbox") == datasets(tmp_path / "files")
    # All images that the archive has are here, so nobody need wait for more.
    queue.settle(idle_s=1e6)
    assert queue.studies()[0].state is StudyState.READY
    again = CliRunner().invoke(spinemets, command, standalone_mode=False)
    assert "0 studies fetched, 1 were here already" in again.output


def test_studies_of_today_are_pulled_once(orthanc, receiving, tmp_path):
    settings, queue, _ = receiving
    uid, files = renamed_localiser(tmp_path / "files", "today", date=f"{date.today():%Y%m%d}")
    orthanc.upload(files)
    inbox = Inbox(Folders(settings.folder), queue, settings.limits)
    puller = Puller(PullSettings(node="web", days=1), connect("web", settings), queue, inbox, 10)
    for _ in range(2):
        assert puller.step() == 300
        ((pulled, images),) = [(study.uid, study.images) for study in queue.studies()]
        assert (pulled, images) == (uid, len(files))


@pytest.mark.parametrize("node", ["web", "archive"])
def test_studies_are_found_by_accession_number_and_date(orthanc, receiving, tmp_path, node):
    settings, _, _ = receiving
    uid, files = renamed_localiser(tmp_path, f"find-{node}")
    orthanc.upload(files)
    remote = connect(node, settings)
    (found,) = remote.find(Query(accession_number=f"find-{node}"))
    assert (found.study_uid, found.images) == (uid, len(files))
    assert uid in {series.study_uid for series in remote.find(Query(dates="20200101-"))}
    assert not remote.find(Query(accession_number=f"find-{node}", dates="-20191231"))


@pytest.mark.parametrize("node", ["web", "archive"])
def test_files_are_sent_by_stow_and_by_c_store(orthanc, receiving, tmp_path, node):
    settings, _, _ = receiving
    uid, files = renamed_localiser(tmp_path, f"send-{node}")
    connect(node, settings).send(files)
    assert len(orthanc.qido(f"studies/{uid}/instances")) == len(files)


def test_port_that_is_taken_has_an_exit_code_of_its_own(receiving, tmp_path):
    _, _, path = receiving
    with pytest.raises(SystemExit) as ending:
        main(["serve", str(path), "--folder", str(tmp_path / "another")])
    assert ending.value.code == 11


def test_every_node_is_asked_by_check(receiving):
    _, _, path = receiving
    done = CliRunner().invoke(spinemets, ["serve", str(path), "--check"], standalone_mode=False)
    assert done.return_value == 0
    assert "archive: answers" in done.output
    assert "web: answers" in done.output


def test_missing_weasyprint_is_told_by_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    settings = tmp_path / "serve.yaml"
    settings.write_text("folder: work\nreceive: {callers: any}\n")
    with pytest.raises(SystemExit) as ending:
        main(["serve", str(settings), "--check"])
    assert ending.value.code == 2
    assert "dicom-pdf needs WeasyPrint" in capsys.readouterr().err


def test_node_whose_name_does_not_resolve_is_told_by_check(tmp_path):
    node = {"kind": "dimse", "ae_title": "PACS", "host": "no-such-host.invalid", "port": 104}
    settings = ServerProcess(tmp_path, {"receive": {"callers": "any"}, "nodes": {"pacs": node}}).settings
    done = CliRunner().invoke(spinemets, ["serve", str(settings), "--check"], standalone_mode=False)
    assert done.return_value == 11
    assert "no-such-host.invalid" in done.output
