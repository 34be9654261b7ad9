"""What the other side of a connection may do: nothing that lasts or grows without end.

pynetdicom waits for the rest of a message as long as the connection is open, and keeps whatever
length the other side says in memory, before it knows who that is.
"""

from __future__ import annotations

import math
import socket
import time

from pynetdicom.transport import AssociationSocket

__all__ = ["ASKING_S", "SILENT_S", "Watch"]

ASKING_S = 15.0
"""Within which a caller must have said what it wants."""
SILENT_S = 60.0
"""How long one that is connected may say nothing, or take to send one PDU."""
# Far above a request with every context there is, and above the 128 KiB that senders are told.
_LARGEST_PDU_BYTES = 2**20
_CHUNK_BYTES = 2**16


class Watch:
    """Reads in place of a connection's own method.

    Parameters
    ----------
    connection
        Of an association.
    most_bytes
        From one message to the next: an object with its command.
    """

    def __init__(self, connection: AssociationSocket, most_bytes: float = math.inf) -> None:
        self._connection, self._most_bytes = connection, most_bytes
        self._taken_bytes = 0
        self._limit_s = ASKING_S
        connection.recv = self._recv  # type: ignore[method-assign]

    def begin_message(self) -> None:
        """A message has come whole, or the other side is known."""
        self._taken_bytes = 0
        self._limit_s = SILENT_S

    def _recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, or fewer where the other side ends the connection.

        Raises
        ------
        OSError
            They are too many, or do not come in time; pynetdicom then ends the connection.
        """
        self._taken_bytes += nr_bytes
        if nr_bytes > _LARGEST_PDU_BYTES or self._taken_bytes > self._most_bytes:
            raise OSError("more is sent than is taken")
        connection: socket.socket | None = self._connection.socket
        if connection is None:
            return bytearray()
        deadline = time.monotonic() + self._limit_s
        received = bytearray()
        while len(received) < nr_bytes:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the rest is not sent")
            connection.settimeout(left_s)
            part = connection.recv(min(nr_bytes - len(received), _CHUNK_BYTES))
            if not part:
                break
            received += part
        # What is sent to the other side has a limit too.
        connection.settimeout(SILENT_S)
        return received
