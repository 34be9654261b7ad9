"""How an analysis ends, and what becomes of its study."""

from __future__ import annotations

import pytest

from queue_steps import IDLE_S, receive, state
from spinemets.batch.records import Stage
from spinemets.batch.stages import Failure, StudyResult
from spinemets.errors import OutputError, WorkerError
from spinemets.serving.analyser import Analyser
from spinemets.serving.analysis import AnalysisJob, analyse
from spinemets.serving.inbox import Folders
from spinemets.serving.queued_study import StudyState
from spinemets.serving.settings import ServeSettings


class Answers:
    """A worker whose analyses end as they are told to."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)

    def call(self, function, _job, _limit_s):
        outcome = self.outcomes.pop(0) if function is analyse else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (StudyResult({"lesions": 0}, (), (), {}), StudyState.DONE),
        (Failure("GeometryError", "slices are missing", Stage.READING), StudyState.FAILED),
        (Failure("NoUsableInputError", "a localiser only", Stage.READING), StudyState.SKIPPED),
        (Failure("OutOfMemoryError", "no room", Stage.NETWORK), StudyState.READY),
        (WorkerError("was killed"), StudyState.READY),
    ],
)
def test_state_follows_from_how_the_analysis_ended(tmp_path, queue, clock, outcome, expected):
    receive(queue)
    clock.now += IDLE_S
    analyser_of(tmp_path, queue, Answers(outcome)).step()
    assert state(queue) is expected


class Interrupted:
    """A worker that is killed because the server stops."""

    analyser: Analyser

    def call(self, function, _job, _limit_s):
        if function is analyse:
            self.analyser.give_up()
            raise WorkerError("was killed")

    def kill(self) -> None:
        pass


def analyser_of(tmp_path, queue, worker) -> Analyser:
    settings = ServeSettings.model_validate({"folder": tmp_path, "receive": {"callers": "any"}})
    job = AnalysisJob("", tmp_path, tmp_path, None, None)
    return Analyser(settings, Folders(tmp_path), queue, job, worker)


def test_analysis_under_way_at_a_stop_begins_again_at_the_next_start(tmp_path, queue, clock):
    receive(queue)
    clock.now += IDLE_S
    worker = Interrupted()
    worker.analyser = analyser_of(tmp_path, queue, worker)
    worker.analyser.step()
    (study,) = queue.studies()
    assert (study.state, study.attempts) == (StudyState.READY, 0)


def test_end_of_an_analysis_is_noted_when_the_queue_can_be_written_again(tmp_path, queue, clock, monkeypatch):
    receive(queue)
    clock.now += IDLE_S
    analyser = analyser_of(tmp_path, queue, Answers(StudyResult({}, (), (), {})))

    def full_disk(*_: object) -> None:
        raise OutputError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "end", full_disk)
        with pytest.raises(OutputError):
            analyser.step()
    assert state(queue) is StudyState.RUNNING
    analyser.step()
    assert state(queue) is StudyState.DONE


def test_result_of_fewer_images_does_not_stay_in_place_when_the_study_fails(tmp_path, queue, clock):
    folders = Folders(tmp_path)
    failure = Failure("GeometryError", "slices are missing", Stage.READING, "its traceback")
    done = StudyResult({"lesions": 0}, (), (), {})
    analyser = analyser_of(tmp_path, queue, Answers(done, failure, done))
    written, log = folders.results / "study-000001/report.json", folders.logs / "study-000001.log"
    kept = folders.results / "earlier/study-000001/report.json"

    def analyse_with(image: str) -> None:
        receive(queue, image=image)
        clock.now += IDLE_S
        analyser.step()

    analyse_with("a")
    written.parent.mkdir(parents=True)
    written.touch()
    analyse_with("b")
    assert state(queue) is StudyState.FAILED
    assert not written.parent.exists()
    assert kept.is_file()
    assert log.is_file()
    assert folders.keys() == {"study-000001"}
    analyse_with("c")
    assert state(queue) is StudyState.DONE
    assert not kept.exists()
    assert not log.exists()
