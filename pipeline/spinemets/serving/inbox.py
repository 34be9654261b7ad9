"""What is received, on the disk: a file for each instance, in a folder for each study.

An instance counts as received when its file, the folder's entry for it and the queue's note of
it are on the disk. The names of files and folders tell nothing of the patient.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock

import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID

from spinemets.atomic import atomic_write_bytes, flush_names, remove_leftovers
from spinemets.batch.folders import earlier_folder, forget_earlier, move_aside
from spinemets.errors import OutOfRoomError, UnreadableFileError
from spinemets.io import EARLIER_NAME
from spinemets.io.dicom_headers import DAMAGE_ERRORS, lenient_headers
from spinemets.serving.settings import LimitSettings
from spinemets.serving.study_queue import StudyQueue

__all__ = ["DEFLATED", "Folders", "Inbox", "refuse_deflated"]

# A small object of this syntax grows to any size when it is read, before a size is seen (PS3.5 A.5).
DEFLATED = UID("1.2.840.10008.1.2.1.99")
_TAGS = ["SOPInstanceUID", "StudyInstanceUID", "Modality"]
_PREAMBLE_BYTES = 132
# Tag, VR and length of File Meta Information Group Length, and its value (PS3.10 7.1).
_GROUP_LENGTH_BYTES = 12


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a server keeps its files."""

    root: Path

    @property
    def queue(self) -> Path:
        """The queue's file."""
        return self.root / "queue.sqlite3"

    @property
    def inbox(self) -> Path:
        """A folder of received files for each study."""
        return self.root / "inbox"

    @property
    def results(self) -> Path:
        """A folder of results for each study."""
        return self.root / "results"

    @property
    def logs(self) -> Path:
        """Where the traceback of a failed study lies."""
        return self.root / "logs"

    def remove_leftovers(self) -> None:
        """Remove what a killed server left half-written; only while no other one uses the folder."""
        for folder in (self.results, *self.inbox.glob("study-*")):
            remove_leftovers(folder)

    def keys(self) -> frozenset[str]:
        """The studies of which there are files."""
        folders = (
            *self.inbox.glob("study-*"),
            *self.results.glob("study-*"),
            *self.results.glob(f"{EARLIER_NAME}/study-*"),
        )
        return frozenset(path.name for path in folders) | {
            path.stem for path in self.logs.glob("study-*.log")
        }

    def remove(self, keys: frozenset[str]) -> None:
        """Remove all files of some studies."""
        for key in keys:
            shutil.rmtree(self.inbox / key, ignore_errors=True)
            shutil.rmtree(self.results / key, ignore_errors=True)
            self.forget_failure(key)

    def set_aside(self, key: str) -> bool:
        """Take a study's result from its place, as it could not be made anew; whether there was one.

        Raises
        ------
        OSError
            It is still in its place.
        """
        folder = self.results / key
        is_there = folder.is_dir()
        if is_there:
            move_aside(folder, earlier_folder(self.results, key))
        return is_there

    def forget_failure(self, key: str) -> None:
        """Remove what an analysis that failed has left."""
        forget_earlier(self.results, key)
        (self.logs / f"{key}.log").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Identity:
    study_uid: str
    name: str
    checksum: str
    is_image: bool


class Inbox:
    """Takes instances; any thread and several processes may call it.

    Parameters
    ----------
    folders
        Of the server.
    queue
        Told of every instance.
    limits
        When nothing more is taken.
    """

    def __init__(self, folders: Folders, queue: StudyQueue, limits: LimitSettings) -> None:
        self._folders, self._queue, self._limits = folders, queue, limits
        # What keeps pydicom from remarking on headers is set for all threads at once.
        self._header_guard = Lock()

    def take(self, content: bytes) -> None:
        """Receive an instance; when this returns it outlasts a kill and a loss of power.

        The same instance again changes nothing, except that a study yet to be analysed waits for more.

        Parameters
        ----------
        content
            A file of PS3.10, preamble and all.

        Raises
        ------
        UnreadableFileError
            It is no DICOM file, is deflated, or does not say which study and instance it is.
        OutOfRoomError
            The disk is as full as it may be, or as many studies wait as may.
        OutputError
            It could not be written.
        """
        identity = self._identify(content)
        self._check_room(len(content))
        number = self._queue.admit(identity.study_uid, self._limits.studies)
        path = self._folders.inbox / f"study-{number:06d}" / f"{identity.name}.dcm"
        if path.is_file() and self._queue.holds(number, identity.name, identity.checksum):
            self._queue.note_repetition(number)
            return
        is_new_study = not path.parent.is_dir()
        atomic_write_bytes(path, content)
        flush_names(path.parent)
        if is_new_study:
            flush_names(path.parent.parent)
        self._queue.add(number, identity.name, identity.checksum, identity.is_image)

    def _identify(self, content: bytes) -> _Identity:
        try:
            (length,) = struct.unpack_from("<I", content, _PREAMBLE_BYTES + 8)
            with self._header_guard, lenient_headers():
                refuse_deflated(content)
                header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=[*_TAGS])
                instance_uid, study_uid = str(header.SOPInstanceUID), str(header.StudyInstanceUID)
                is_image = str(header.get("Modality", "")).strip().upper() == "MR"
        except DAMAGE_ERRORS as error:
            raise _unsound(error) from error
        if not instance_uid or not study_uid:
            raise UnreadableFileError("an instance that arrived lacks its own or its study's UID")
        # Whoever passes an instance on writes file meta information of their own.
        dataset = memoryview(content)[_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES + length :]
        return _Identity(
            study_uid,
            hashlib.sha256(instance_uid.encode()).hexdigest()[:32],
            hashlib.sha256(dataset).hexdigest(),
            is_image,
        )

    def _check_room(self, size_bytes: int) -> None:
        self._folders.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folders.root).free - size_bytes
        if free < self._limits.free_gib * 2**30:
            raise OutOfRoomError(
                f"{max(free, 0) / 2**30:.1f} GiB are free on the disk, and {self._limits.free_gib:g} GiB of "
                "it are left alone (limits.free_gib); no more is taken for now"
            )


def refuse_deflated(content: bytes) -> None:
    """Look at the syntax of a DICOM file in memory, without inflating it.

    Raises
    ------
    UnreadableFileError
        It is deflated, or does not soundly say that it is not.
    """
    try:
        is_deflated = _transfer_syntax(content) == DEFLATED
    except DAMAGE_ERRORS as error:
        raise _unsound(error) from error
    if is_deflated:
        raise UnreadableFileError(
            "an instance that arrived is deflated, which is not taken since it may grow to any size"
        )


def _transfer_syntax(content: bytes) -> str:
    """What the file meta information says, and only where pydicom, which inflates by it, reads the same."""
    file = BytesIO(content)
    read_preamble(file, force=False)
    meta = read_dataset(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != 2
    )
    # Where the first element's VR is none, pydicom would read them all anew, without VRs.
    _ = meta[next(meta.elements()).tag]
    return str(meta.TransferSyntaxUID)


def _unsound(error: Exception) -> UnreadableFileError:
    # The error's own text may quote a patient's data.
    return UnreadableFileError(f"an instance that arrived has no sound DICOM header ({type(error).__name__})")
