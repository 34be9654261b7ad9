"""Results on their way to other nodes, tried again with growing pauses."""

from __future__ import annotations

import logging
import random

from spinemets.errors import NetworkError, OutputError
from spinemets.serving.inbox import Folders
from spinemets.serving.queued_study import Delivery
from spinemets.serving.remotes import Remote
from spinemets.serving.settings import SendSettings
from spinemets.serving.study_queue import StudyQueue

__all__ = ["Sender", "pause_s"]

_log = logging.getLogger(__name__)

_NOTHING_TO_DO_S = 0.5
# Studies that failed together are not tried again at the same moment.
_SPREAD = 0.2


def pause_s(attempts: int, settings: SendSettings) -> float:
    """How long to wait after so many failed attempts, give or take a fifth.

    >>> from spinemets.serving.settings import SendSettings
    >>> round(pause_s(1, SendSettings(first_pause_s=10)), -1), pause_s(99, SendSettings()) <= 4320
    (10.0, True)
    """
    pause = min(settings.first_pause_s * 2.0 ** min(attempts - 1, 30), settings.longest_pause_s)
    return pause * random.uniform(1 - _SPREAD, 1 + _SPREAD)


class Sender:
    """Sends the results of finished studies to one node.

    The objects' UIDs follow from what is in them, so what was sent before a kill is replaced by
    the same when it is sent again.
    """

    def __init__(
        self, node: str, remote: Remote, queue: StudyQueue, folders: Folders, settings: SendSettings
    ) -> None:
        self._node, self._remote = node, remote
        self._queue, self._folders, self._settings = queue, folders, settings

    def step(self) -> float:
        """Send the results of one study; how many seconds to wait before the next time."""
        delivery = self._queue.next_delivery(self._node)
        if delivery is None:
            return _NOTHING_TO_DO_S
        key = delivery.study.key
        folder = self._folders.results / key
        paths = sorted((folder / "dicom").glob("*.dcm"))
        try:
            if not folder.is_dir():
                raise OutputError("its results are not in their folder")
            if paths:
                self._remote.send(paths)
        except (NetworkError, OutputError) as error:
            self._try_again(delivery, str(error))
        else:
            self._queue.delivered(delivery)
            # Some formats yield an object only where there is a lesion.
            _log.info("%s: %s objects sent to %s", key, len(paths) or "no", self._node)
        return 0.0

    def _try_again(self, delivery: Delivery, reason: str) -> None:
        key = delivery.study.key
        if delivery.attempts >= self._settings.attempts:
            _log.error("%s: not sent to %s after %d attempts: %s", key, self._node, delivery.attempts, reason)
            self._queue.not_delivered(delivery, reason, None)
            return
        pause = pause_s(delivery.attempts, self._settings)
        _log.warning("%s: not sent to %s, again in %.0f s: %s", key, self._node, pause, reason)
        self._queue.not_delivered(delivery, reason, pause)
