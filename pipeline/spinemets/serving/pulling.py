"""Getting studies from other nodes: those that match and of which images are missing here."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, timedelta

from spinemets.errors import NetworkError, OutOfRoomError, UnreadableFileError
from spinemets.serving.inbox import Inbox
from spinemets.serving.remotes import Query, Remote, RemoteSeries, is_uid
from spinemets.serving.settings import PullSettings
from spinemets.serving.study_queue import StudyQueue

__all__ = ["Pulled", "Puller", "pull", "studies_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of asking a node for studies; a failure for each that could not be got whole."""

    retrieved: int = 0
    known: int = 0
    failures: tuple[str, ...] = ()


def studies_of(series: tuple[RemoteSeries, ...]) -> dict[str, list[RemoteSeries]]:
    """The series of each study, by its UID; those with a UID that is none are passed over."""
    studies: dict[str, list[RemoteSeries]] = {}
    sound = [one for one in series if is_uid(one.study_uid) and is_uid(one.uid)]
    if len(sound) < len(series):
        _log.warning("%d series are passed over: their UIDs are none", len(series) - len(sound))
    for one in sound:
        studies.setdefault(one.study_uid, []).append(one)
    return studies


def pull(remote: Remote, query: Query, queue: StudyQueue, inbox: Inbox, most_waiting: int) -> Pulled:
    """Get the MR images of every study that matches, unless all of them are here.

    A study or series that cannot be got does not keep the others from being got. Where the node
    neither counts nor lists its images, a study is got until all its series came to the last.

    Raises
    ------
    NetworkError
        The node cannot be searched.
    OutOfRoomError
        No more is taken for now.
    OutputError
        The queue or the disk cannot be used.
    """
    retrieved = known = 0
    failures: list[str] = []
    for uid, series in studies_of(remote.find(query)).items():
        expected = sum(one.images for one in series) if all(one.images for one in series) else 0
        series_uids = [one.uid for one in series]
        if queue.count_images(uid) >= expected if expected else queue.was_pulled(uid, series_uids):
            known += 1
            continue
        number = queue.admit(uid, most_waiting)
        queue.expect(number, expected)
        troubles = [trouble for one in series if (trouble := _trouble_with(one, remote, inbox))]
        if troubles:
            failures.append(troubles[0])
        else:
            queue.note_pull(number, series_uids)
            retrieved += 1
    return Pulled(retrieved, known, tuple(failures))


def _trouble_with(series: RemoteSeries, remote: Remote, inbox: Inbox) -> str:
    """Get a series; why it could not be got whole, or nothing."""
    try:
        remote.retrieve(series, inbox)
    except (NetworkError, UnreadableFileError) as error:
        return str(error)
    return ""


class Puller:
    """Asks one node for the studies of the last days, from time to time."""

    def __init__(
        self,
        settings: PullSettings,
        remote: Remote,
        queue: StudyQueue,
        inbox: Inbox,
        most_waiting: int,
    ) -> None:
        self._settings, self._remote = settings, remote
        self._queue, self._inbox, self._most_waiting = queue, inbox, most_waiting

    def step(self) -> float:
        """Ask once; how many seconds to wait before the next time."""
        first = date.today() - timedelta(days=self._settings.days - 1)
        query = Query(dates=f"{first:%Y%m%d}-", description=self._settings.description)
        try:
            pulled = pull(self._remote, query, self._queue, self._inbox, self._most_waiting)
        except (NetworkError, OutOfRoomError) as error:
            _log.warning("nothing more is pulled for now: %s", error)
            return self._settings.every_s
        if pulled.retrieved:
            _log.info("%d studies pulled from %s", pulled.retrieved, self._settings.node)
        if pulled.failures:
            _log.warning("%d studies could not be pulled: %s", len(pulled.failures), pulled.failures[0])
        return self._settings.every_s
