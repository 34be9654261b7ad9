"""The listening side: C-STORE and C-ECHO from the callers that may connect."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import suppress
from threading import Lock
from typing import Any

from pynetdicom import (
    AE,
    ALL_TRANSFER_SYNTAXES,
    AllStoragePresentationContexts,
    evt,
)
from pynetdicom.transport import ThreadedAssociationServer

from spinemets.errors import NetworkError, OutOfRoomError, OutputError, UnreadableFileError
from spinemets.serving.connections import ASKING_S, SILENT_S, Watch
from spinemets.serving.inbox import DEFLATED, Inbox
from spinemets.serving.settings import ReceiveSettings
from spinemets.serving.tls import server_context

__all__ = ["Receiver"]

_log = logging.getLogger(__name__)

_VERIFICATION = "1.2.840.10008.1.1"
_TRANSFER_SYNTAXES = [syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax != DEFLATED]
# PS3.4 B.2.3: success; refused, out of resources; cannot understand.
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
# PS3.8 9.3.4: rejected for now, by the provider's presentation, because a local limit is exceeded.
_TOO_MANY = (0x02, 0x03, 0x02)
# PS3.8 9.2.1: a request for an association is awaited, or was none and the end of the connection is.
_NOTHING_ASKED = ("Sta2", "Sta13")
_PDU_BYTES = 128 * 1024
_ENDING_STEP_S = 0.1
_MOST_BYTES = 2 * 2**30
# Connections beside the associations that have asked for nothing yet; each takes two threads.
_MOST_SILENT = 100


class _Tally:
    """What came of the instances of one association, and what it is connected by."""

    def __init__(self, connection: socket.socket | None = None, watch: Watch | None = None) -> None:
        self.connection, self.watch = connection, watch
        self.is_association = False
        self.taken = self.refused = 0
        self.reason = ""


class Receiver:
    """A C-STORE and C-ECHO provider that answers with success only what the inbox has on the disk.

    Parameters
    ----------
    most_bytes
        Of an object that is taken.

    Raises
    ------
    ConfigError
        The files for TLS cannot be used.
    """

    def __init__(self, settings: ReceiveSettings, inbox: Inbox, most_bytes: float = _MOST_BYTES) -> None:
        self._settings, self._inbox, self._most_bytes = settings, inbox, most_bytes
        self._tls = None if settings.tls is None else server_context(settings.tls)
        self._tallies: dict[object, _Tally] = {}
        self._guard = Lock()
        self._entity = AE(ae_title=settings.ae_title)
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = [] if settings.callers == "any" else list(settings.callers)
        # pynetdicom counts those who have asked for nothing and those who are leaving, too; see _requested.
        self._entity.maximum_associations = settings.associations + 2 * _MOST_SILENT
        self._entity.maximum_pdu_size = _PDU_BYTES
        self._entity.acse_timeout, self._entity.network_timeout = ASKING_S, SILENT_S
        self._entity.add_supported_context(_VERIFICATION, _TRANSFER_SYNTAXES)
        for context in AllStoragePresentationContexts:
            self._entity.add_supported_context(str(context.abstract_syntax), _TRANSFER_SYNTAXES)
        self._server: ThreadedAssociationServer | None = None

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        NetworkError
            The port is taken, or the address is not this machine's.
        """
        settings = self._settings
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_DIMSE_RECV, self._message_came),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_RELEASED, self._left),
            (evt.EVT_ABORTED, self._left),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        try:
            self._server = self._entity.start_server(
                (settings.host, settings.port), block=False, ssl_context=self._tls, evt_handlers=handlers
            )
        except OSError as error:
            raise NetworkError(
                f"{settings.host}:{settings.port}: cannot be listened on ({error.strerror}); choose another "
                "receive.host or receive.port, or end what uses it"
            ) from error
        _log.info(
            "listening on %s:%d as %s%s",
            settings.host,
            settings.port,
            settings.ae_title,
            ", with TLS" if self._tls else "",
        )

    def stop(self, ending_s: float) -> None:
        """Let nobody connect any more, and give those who are connected some time to end."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + ending_s
        while self._entity.active_associations and time.monotonic() < deadline:
            time.sleep(_ENDING_STEP_S)
        self._entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        status, reason = _SUCCESS, ""
        try:
            self._inbox.take(event.encoded_dataset())
        except UnreadableFileError as error:
            status, reason = _CANNOT_UNDERSTAND, str(error)
        except OutOfRoomError as error:
            status, reason = _OUT_OF_RESOURCES, str(error)
        except (OutputError, OSError) as error:
            status, reason = _OUT_OF_RESOURCES, f"it could not be stored: {error}"
        with self._guard:
            tally = self._tallies.setdefault(event.assoc, _Tally())
            tally.taken += not reason
            tally.refused += bool(reason)
            tally.reason = reason or tally.reason
        return status

    def _opened(self, event: evt.Event) -> None:
        connection = event.assoc.dul.socket
        if connection is None or connection.socket is None:
            return
        tally = _Tally(connection.socket, Watch(connection, self._most_bytes))
        with self._guard:
            self._tallies[event.assoc] = tally
            is_crowded = len(self._tallies) > self._settings.associations + _MOST_SILENT
        if is_crowded:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        with self._guard:
            others = sum(tally.is_association for tally in self._tallies.values())
            has_room = others < self._settings.associations
            if association in self._tallies:
                self._tallies[association].is_association = has_room
        if not has_room:
            association.acse.send_reject(*_TOO_MANY)
            self._rejected(event)
            association.kill()
            return
        self._message_came(event)

    def _left(self, event: evt.Event) -> None:
        with self._guard:
            if event.assoc in self._tallies:
                self._tallies[event.assoc].is_association = False

    def _message_came(self, event: evt.Event) -> None:
        with self._guard:
            tally = self._tallies.get(event.assoc)
        if tally is not None and tally.watch is not None:
            tally.watch.begin_message()

    def _rejected(self, event: evt.Event) -> None:
        self._left(event)
        request = event.assoc.requestor.primitive
        _log.warning(
            "a connection from %s as %r to %r was rejected; see receive.callers, receive.ae_title and "
            "receive.associations",
            event.assoc.requestor.address,
            request.calling_ae_title if request else "",
            request.called_ae_title if request else "",
        )

    def _closed(self, event: evt.Event) -> None:
        upper_layer: Any = event.assoc.dul
        has_asked = event.assoc.requestor.primitive is not None
        if not has_asked and upper_layer.state_machine.current_state in _NOTHING_ASKED:
            # pynetdicom would wait for a request, and count the caller as connected, until acse_timeout.
            upper_layer.to_user_queue.put(None)
        with self._guard:
            tally = self._tallies.pop(event.assoc, None)
        if tally is None:
            return
        if tally.connection is not None:
            # pynetdicom leaves a connection open that the other side has ended.
            tally.connection.close()
        caller = event.assoc.requestor.ae_title
        if tally.taken:
            _log.info("%d instances received from %r", tally.taken, caller)
        if tally.refused:
            _log.warning("%d instances from %r were refused: %s", tally.refused, caller, tally.reason)
