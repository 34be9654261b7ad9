"""A node that is spoken to by C-ECHO, C-FIND, C-MOVE and C-STORE."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from spinemets.errors import NetworkError, OutputError
from spinemets.io.dicom_headers import DAMAGE_ERRORS
from spinemets.serving.connections import Watch
from spinemets.serving.inbox import Inbox
from spinemets.serving.remotes import HELD_ALREADY, IMAGE_MODALITY, Query, RemoteSeries, image_count
from spinemets.serving.settings import DimseNode
from spinemets.serving.tls import client_context

__all__ = ["DimseRemote"]

T = TypeVar("T")

# PS3.6 A.
_VERIFICATION = UID("1.2.840.10008.1.1")
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
_CONNECTING_S = 15.0
_ANSWERING_S = 60.0
_MOVING_S = 600.0
_MOST_ANSWERS = 100_000
_PENDING = (0xFF00, 0xFF01)
_PDU_BYTES = 128 * 1024


class _NoAnswerError(NetworkError):
    """A request without an answer: the node is gone, or the answer was lost on this side."""


def _asked_again(ask: Callable[..., T]) -> Callable[..., T]:
    """Repeat a request once that got no answer.

    On a busy machine, the thread of pynetdicom that waits for requests sometimes takes an
    answer and drops it. Every request here may be repeated without harm.
    """

    @wraps(ask)
    def ask_twice(*arguments: Any) -> T:
        try:
            return ask(*arguments)
        except _NoAnswerError:
            return ask(*arguments)

    return ask_twice


class DimseRemote:
    """A node of a C-STORE, C-FIND or C-MOVE provider.

    Parameters
    ----------
    name
        What the settings call it.
    title
        Our own AE title, to which C-MOVE sends.

    Raises
    ------
    ConfigError
        The files for TLS cannot be used.
    """

    def __init__(self, name: str, node: DimseNode, title: str) -> None:
        self._name, self._node, self._title = name, node, title
        self._tls = None if node.tls is None else client_context(node.tls)

    @_asked_again
    def check(self) -> None:
        """See whether the node answers a C-ECHO.

        Raises
        ------
        NetworkError
            It does not.
        """
        with self._association([build_context(_VERIFICATION)]) as association:
            self._expect_success(association.send_c_echo(), "C-ECHO")

    @_asked_again
    def find(self, query: Query) -> tuple[RemoteSeries, ...]:
        """Ask for studies, and then for the MR series of each.

        Raises
        ------
        NetworkError
            The node cannot be reached or refuses.
        """
        with self._association([build_context(_FIND)]) as association:
            wanted = _identifier("STUDY", **{"StudyInstanceUID": "", **query.filters})
            studies = [str(answer.get("StudyInstanceUID", "")) for answer in self._find(association, wanted)]
            series = []
            for uid in dict.fromkeys(filter(None, studies)):
                wanted = _identifier(
                    "SERIES",
                    StudyInstanceUID=uid,
                    Modality=IMAGE_MODALITY,
                    SeriesInstanceUID="",
                    NumberOfSeriesRelatedInstances=None,
                )
                series += [
                    RemoteSeries(uid, str(answer.SeriesInstanceUID), image_count(answer))
                    for answer in self._find(association, wanted)
                    if answer.get("SeriesInstanceUID") and answer.get("Modality", "MR") == IMAGE_MODALITY
                ]
            return tuple(
                one if one.images else replace(one, images=self._count_images(association, one))
                for one in series
            )

    def _count_images(self, association: Association, series: RemoteSeries) -> int:
        """How many images the node lists of a series that it does not count; 0 where it cannot say."""
        wanted = _identifier(
            "IMAGE", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.uid, SOPInstanceUID=""
        )
        try:
            uids = {str(answer.get("SOPInstanceUID", "")) for answer in self._find(association, wanted)}
        except _NoAnswerError:
            raise
        except NetworkError:
            return 0
        return len(uids - {""})

    @_asked_again
    def retrieve(self, series: RemoteSeries, inbox: Inbox) -> None:  # noqa: ARG002
        """Let the node send a series to our own AE title, where the receiver takes it.

        Raises
        ------
        NetworkError
            The node cannot be reached, does not know our AE title, or could not send everything.
        """
        with self._association([build_context(_MOVE)], _MOVING_S) as association:
            wanted = _identifier("SERIES", StudyInstanceUID=series.study_uid, SeriesInstanceUID=series.uid)
            last = Dataset()
            for status, _ in association.send_c_move(wanted, self._title, _MOVE):
                last = status
            self._expect_success(last, f"C-MOVE to {self._title}")

    @_asked_again
    def send(self, paths: Sequence[Path]) -> None:
        """Send files by C-STORE; all are tried before the first refusal is told.

        Raises
        ------
        NetworkError
            The node cannot be reached or refuses a file.
        OutputError
            A file cannot be read.
        """
        kinds = dict.fromkeys(map(_kind_of, paths))
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
        refusals: list[NetworkError] = []
        with self._association(contexts) as association:
            for path in paths:
                try:
                    self._store(association, path)
                except NetworkError as error:
                    if not association.is_established:
                        raise
                    refusals.append(error)
        if refusals:
            raise refusals[0]

    def _store(self, association: Association, path: Path) -> None:
        sop_class, _ = _kind_of(path)
        try:
            instance = pydicom.dcmread(path)
        except (OSError, InvalidDicomError) as error:
            raise OutputError(f"{path.name}: a result that was to be sent cannot be read") from error
        try:
            status = association.send_c_store(instance)
        except ValueError as error:
            raise NetworkError(
                f"{self._name}: does not take objects of the class {sop_class.name}"
            ) from error
        except RuntimeError as error:
            raise NetworkError(f"{self._name}: ended the connection before {path.name} was sent") from error
        if status.get("Status") != HELD_ALREADY:
            self._expect_success(status, f"C-STORE of {path.name}")

    def _find(self, association: Association, wanted: Dataset) -> list[Dataset]:
        found, last = [], Dataset()
        for status, answer in association.send_c_find(wanted, _FIND):
            last = status
            if status and status.Status in _PENDING and answer is not None:
                found.append(answer)
            if len(found) > _MOST_ANSWERS:
                association.abort()
                raise NetworkError(
                    f"{self._name}: answered the C-FIND with more than {_MOST_ANSWERS} results; narrow it"
                )
        self._expect_success(last, "C-FIND")
        return found

    def _expect_success(self, status: Dataset, what: str) -> None:
        code = status.get("Status")
        if code is None:
            raise _NoAnswerError(f"{self._name}: did not answer the {what}; it may have ended the connection")
        # PS3.7 C.1.1: 0000 is success, 0001 and Bxxx are warnings; a move that warns lacks something.
        if code == 0 or ((code == 1 or code >> 12 == 0xB) and not what.startswith("C-MOVE")):
            return
        comment = {
            0xA700: ", out of resources",
            0xA702: ", could not send",
            0xA801: ", it does not know that AE title",
            0xA900: ", data set does not match",
            0xB000: ", not everything was sent",
        }
        raise NetworkError(f"{self._name}: answered the {what} with status {code:04X}{comment.get(code, '')}")

    @contextmanager
    def _association(
        self, contexts: list[PresentationContext], answering_s: float = _ANSWERING_S
    ) -> Iterator[Association]:
        node = self._node
        entity = AE(ae_title=self._title)
        entity.connection_timeout = entity.acse_timeout = _CONNECTING_S
        entity.dimse_timeout = entity.network_timeout = answering_s
        tls = None if self._tls is None else (self._tls, node.host)
        made: list[socket.socket] = [] if self._tls is None else self._tls.made

        def remember(event: evt.Event) -> None:
            connection = event.assoc.dul.socket
            if connection is not None and connection.socket is not None:
                made.append(connection.socket)
                # A node that sends half an answer would be waited for without end.
                Watch(connection).begin_message()

        try:
            association = entity.associate(
                node.host,
                node.port,
                contexts=contexts,
                ae_title=node.ae_title,
                max_pdu=_PDU_BYTES,
                tls_args=tls,
                evt_handlers=[(evt.EVT_CONN_OPEN, remember)],
            )
        except (OSError, ValueError, TypeError) as error:
            # pynetdicom looks a name up before it connects.
            raise NetworkError(
                f"{self._name}: {node.host}:{node.port} is no address that can be connected to; check the "
                "host's name"
            ) from error
        try:
            if not association.is_established:
                raise NetworkError(self._why_not(association))
            yield association
        except RuntimeError as error:
            # What pynetdicom raises where the node has ended the connection between two requests.
            raise NetworkError(f"{self._name}: ended the connection") from error
        except DAMAGE_ERRORS as error:
            raise NetworkError(
                f"{self._name}: answered with what cannot be read ({type(error).__name__})"
            ) from error
        finally:
            if association.is_established:
                association.release()
            for connection in made:
                connection.close()
            made.clear()

    def _why_not(self, association: Association) -> str:
        node = self._node
        place = f"{self._name}: {node.host}:{node.port}"
        if association.is_rejected:
            return (
                f"{place} as {node.ae_title} rejected the connection; it must know the AE title {self._title}"
            )
        if association.acceptor.primitive is not None:
            return f"{place} as {node.ae_title} accepts none of what is asked of it"
        kind = "a DICOM node with TLS" if self._tls else "a DICOM node"
        return f"{place} is not to be reached as {kind}; check host, port and certificates"


def _kind_of(path: Path) -> tuple[UID, UID]:
    """SOP class and transfer syntax of a file."""
    try:
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        return meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID
    except (OSError, InvalidDicomError, AttributeError) as error:
        raise OutputError(f"{path.name}: a result that was to be sent cannot be read") from error


def _identifier(level: str, **values: object) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier
