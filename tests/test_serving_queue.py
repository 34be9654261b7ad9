"""The queue's steps and what is tried again, without a network."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pydicom
import pytest

from queue_steps import IDLE_S, begin, receive, state
from serving_sides import IMAGES
from spinemets.errors import NetworkError, OutOfRoomError, OutputError
from spinemets.serving.delivery import Sender
from spinemets.serving.inbox import Folders, Inbox
from spinemets.serving.queued_study import StudyState
from spinemets.serving.server import keep_house
from spinemets.serving.settings import LimitSettings, SendSettings, ServeSettings
from spinemets.serving.study_queue import StudyQueue


def test_study_is_ready_when_nothing_came_for_a_while(queue, clock):
    receive(queue)
    clock.now += IDLE_S - 1
    receive(queue, image="b")
    clock.now += IDLE_S - 1
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.RECEIVED
    clock.now += 1
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.READY


def test_study_is_ready_in_time_though_the_clock_is_set_back(queue, clock):
    receive(queue)
    clock.now -= 86400
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.RECEIVED
    clock.now += IDLE_S
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.READY


def test_study_is_ready_as_soon_as_all_expected_images_are_there(queue):
    queue.expect(receive(queue), 2)
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.RECEIVED
    receive(queue, image="b")
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.READY


@pytest.mark.parametrize(("image", "checksum"), [("c", "x"), ("b", "changed")], ids=["new", "changed"])
def test_study_to_which_more_comes_than_was_expected_waits_again(queue, clock, image, checksum):
    queue.expect(receive(queue), 2)
    receive(queue, image="b")
    queue.settle(IDLE_S)
    queue.end(queue.begin(), StudyState.DONE)
    receive(queue, image=image, checksum=checksum)
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.RECEIVED
    clock.now += IDLE_S
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.READY


def test_study_that_has_more_than_is_expected_before_it_is_ready_waits(queue):
    queue.expect(receive(queue), 2)
    for image in "bc":
        receive(queue, image=image)
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.RECEIVED


def test_study_without_an_image_is_skipped(queue, clock):
    queue.add(queue.admit("1.2.3", 10), "report", "x", is_image=False)
    clock.now += IDLE_S
    queue.settle(IDLE_S)
    assert state(queue) is StudyState.SKIPPED


def test_new_image_brings_a_finished_study_back_and_a_report_does_not(queue, clock):
    number = receive(queue)
    queue.end(begin(queue, clock), StudyState.DONE)
    queue.add(number, "report", "x", is_image=False)
    assert state(queue) is StudyState.DONE
    receive(queue, image="b")
    assert state(queue) is StudyState.RECEIVED


def test_result_of_a_study_that_grew_meanwhile_is_not_sent(queue, clock):
    receive(queue)
    study = begin(queue, clock)
    receive(queue, image="b")
    assert not queue.end(study, StudyState.DONE, nodes=["pacs"])
    assert state(queue) is StudyState.RECEIVED
    assert queue.next_delivery("pacs") is None


def test_killed_analysis_begins_again_but_not_for_ever(queue, clock):
    receive(queue)
    for _ in range(2):
        begin(queue, clock)
        assert queue.recover(most_attempts=3) == 1
    begin(queue, clock)
    assert queue.recover(most_attempts=3) == 0
    assert state(queue) is StudyState.FAILED
    assert queue.retry_failed() == 1
    assert state(queue) is StudyState.READY


def test_analysis_given_up_by_a_stop_does_not_count(queue, clock):
    receive(queue)
    queue.put_back(begin(queue, clock))
    assert begin(queue, clock).attempts == 1


@pytest.mark.parametrize(
    "give_up",
    [
        lambda queue, study: queue.put_back(study),
        lambda queue, study: queue.postpone(study, "no memory", IDLE_S / 2),
        lambda queue, _study: queue.recover(most_attempts=3),
    ],
)
def test_study_that_grew_before_its_analysis_was_given_up_waits_until_it_is_complete(queue, clock, give_up):
    receive(queue)
    study = begin(queue, clock)
    receive(queue, image="b")
    give_up(queue, study)
    clock.now += IDLE_S - 1
    queue.settle(IDLE_S)
    assert queue.begin() is None
    receive(queue, image="c")
    assert begin(queue, clock).images == 3


def test_queue_takes_no_new_study_when_it_is_full(queue):
    receive(queue)
    with pytest.raises(OutOfRoomError):
        queue.admit("4.5.6", 1)
    assert queue.admit("1.2.3", 1) == 1


def test_what_is_in_the_queue_outlasts_it(tmp_path, queue, clock):
    receive(queue)
    study = begin(queue, clock)
    queue.end(study, StudyState.DONE, nodes=["pacs"])
    queue.close()
    again = StudyQueue(tmp_path / "queue.sqlite3", clock)
    assert again.next_delivery("pacs").study.uid == "1.2.3"
    again.close()


def test_file_that_is_no_queue_is_told(tmp_path):
    (tmp_path / "queue.sqlite3").write_bytes(b"something else, and long enough to be looked at" * 100)
    with pytest.raises(OutputError, match="the queue cannot be used"):
        StudyQueue(tmp_path / "queue.sqlite3")


def test_queue_of_an_older_version_is_taken_over(tmp_path, queue, clock):
    number = receive(queue)
    queue.close()
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as file:
        file.executescript("ALTER TABLE study DROP COLUMN pulled; PRAGMA user_version = 1;")
    for _ in range(2):
        with closing(StudyQueue(tmp_path / "queue.sqlite3", clock)) as again:
            assert [study.uid for study in again.studies()] == ["1.2.3"]
            again.note_pull(number, ["1.2.3.1"])
            assert again.was_pulled("1.2.3", ["1.2.3.1"])


def test_queue_of_a_newer_version_is_left_alone(tmp_path, clock):
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as file:
        file.execute("PRAGMA user_version = 1000")
    with pytest.raises(OutputError, match="a queue of format 1000"):
        StudyQueue(tmp_path / "queue.sqlite3", clock)


def test_finished_studies_are_removed_in_time_and_others_stay(queue, clock):
    for uid, ending in (("1", StudyState.SKIPPED), ("2", StudyState.DONE), ("3", StudyState.FAILED)):
        receive(queue, uid)
        queue.end(begin(queue, clock), ending)
    receive(queue, "4")
    queue.end(begin(queue, clock), StudyState.DONE, nodes=["pacs"])
    clock.now += 2 * 86400
    assert queue.forget(days=1) == 2
    assert [study.uid for study in queue.studies()] == ["3", "4"]


def test_same_instance_again_changes_nothing_and_a_changed_one_does(tmp_path, queue, clock):
    folders = Folders(tmp_path)
    inbox = Inbox(folders, queue, LimitSettings(free_gib=0))
    content = IMAGES[0].read_bytes()
    inbox.take(content)
    queue.end(begin(queue, clock), StudyState.DONE)
    before = queue.studies()
    inbox.take(content)
    assert queue.studies() == before
    dataset = pydicom.dcmread(IMAGES[0])
    dataset.PatientName = "Corrected^Name"
    dataset.save_as(tmp_path / "corrected.dcm")
    inbox.take((tmp_path / "corrected.dcm").read_bytes())
    assert state(queue) is StudyState.RECEIVED
    (path,) = folders.inbox.rglob("*.dcm")
    assert pydicom.dcmread(path).PatientName == "Corrected^Name"


@pytest.mark.parametrize("settled", [False, True])
def test_study_that_is_sent_anew_waits_until_the_rest_has_come(tmp_path, queue, clock, settled):
    inbox = Inbox(Folders(tmp_path), queue, LimitSettings(free_gib=0))
    inbox.take(IMAGES[0].read_bytes())
    clock.now += IDLE_S if settled else IDLE_S - 1
    queue.settle(IDLE_S)
    inbox.take(IMAGES[0].read_bytes())
    clock.now += IDLE_S - 1
    queue.settle(IDLE_S)
    assert queue.begin() is None
    inbox.take(IMAGES[1].read_bytes())
    assert begin(queue, clock).images == 2


@pytest.mark.parametrize("images", [0, 2], ids=["uncounted", "counted"])
def test_study_that_is_pulled_again_and_again_in_vain_does_not_wait_for_ever(tmp_path, queue, clock, images):
    inbox = Inbox(Folders(tmp_path), queue, LimitSettings(free_gib=0))
    inbox.take(IMAGES[0].read_bytes())
    for _ in range(3):
        queue.expect(1, images)
        inbox.take(IMAGES[0].read_bytes())
        clock.now += IDLE_S / 2
        queue.settle(IDLE_S)
    assert state(queue) is StudyState.READY


def test_files_of_removed_studies_go_and_others_stay(tmp_path, queue, clock):
    folders = Folders(tmp_path)
    for uid, ending in (("1", StudyState.DONE), ("2", StudyState.FAILED)):
        receive(queue, uid)
        queue.end(begin(queue, clock), ending)
    for folder in (folders.inbox, folders.results):
        for key in ("study-000001", "study-000002"):
            (folder / key).mkdir(parents=True)
    folders.logs.mkdir()
    (folders.logs / "study-000002.log").touch()
    clock.now += 2 * 86400
    settings = ServeSettings.model_validate(
        {"folder": tmp_path, "receive": {"callers": "any"}, "limits": {"keep_days": 1}}
    )
    keep_house(settings, folders, queue)
    assert [path.name for path in folders.inbox.iterdir()] == ["study-000002"]
    assert [path.name for path in folders.results.iterdir()] == ["study-000002"]
    assert folders.keys() == {"study-000002"}


class Unreachable:
    """A node that is away for a while."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def send(self, _paths) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise NetworkError("pacs: is not to be reached")


def finished_study(tmp_path, queue, clock) -> None:
    receive(queue)
    study = begin(queue, clock)
    queue.end(study, StudyState.DONE, nodes=["pacs"])
    results = Folders(tmp_path).results / study.key / "dicom"
    results.mkdir(parents=True)
    (results / "a.dcm").touch()


def test_sending_is_tried_again_after_growing_pauses(tmp_path, queue, clock):
    finished_study(tmp_path, queue, clock)
    settings = SendSettings(first_pause_s=10)
    sender = Sender("pacs", Unreachable(failures=2), queue, Folders(tmp_path), settings)
    sender.step()
    assert queue.next_delivery("pacs") is None
    clock.now += 12.1
    sender.step()
    clock.now += 12.1
    assert queue.next_delivery("pacs") is None
    clock.now += 12.1
    sender.step()
    assert state(queue) is StudyState.SENT


def test_sending_is_given_up_in_the_end_and_can_be_asked_for_again(tmp_path, queue, clock):
    finished_study(tmp_path, queue, clock)
    sender = Sender("pacs", Unreachable(failures=1), queue, Folders(tmp_path), SendSettings(attempts=1))
    sender.step()
    assert queue.deliveries() == ((1, "pacs", "failed", 1, "pacs: is not to be reached"),)
    assert state(queue) is StudyState.DONE
    queue.retry_failed()
    sender.step()
    assert state(queue) is StudyState.SENT


def test_study_whose_results_hold_no_objects_counts_as_sent(tmp_path, queue, clock):
    finished_study(tmp_path, queue, clock)
    (results,) = Folders(tmp_path).results.iterdir()
    shutil.rmtree(results / "dicom")
    Sender("pacs", Unreachable(failures=1), queue, Folders(tmp_path), SendSettings()).step()
    assert state(queue) is StudyState.SENT


def test_study_whose_results_are_gone_does_not_count_as_sent(tmp_path, queue, clock):
    finished_study(tmp_path, queue, clock)
    shutil.rmtree(Folders(tmp_path).results)
    Sender("pacs", Unreachable(failures=0), queue, Folders(tmp_path), SendSettings(attempts=1)).step()
    assert queue.deliveries() == ((1, "pacs", "failed", 1, "its results are not in their folder"),)
