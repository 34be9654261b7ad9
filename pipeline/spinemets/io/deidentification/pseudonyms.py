"""What stands in place of identifiers: it follows from them and a secret, and leads back to neither.

The same key gives the same pseudonyms on every run, so studies of one patient stay together and
results refer to the de-identified source, whenever each was made.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, field
from datetime import timedelta

from pydicom import config
from pydicom.uid import UID

__all__ = ["Pseudonyms"]

_LONGEST_SHIFT_DAYS = 3650
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Pseudonyms under one secret key.

    Examples
    --------
    >>> names = Pseudonyms(b"a key of at least thirty-two bytes")
    >>> names.uid("1.2.3") == names.uid("1.2.3") != names.uid("1.2.4")
    True
    >>> names.uid("1.2.840.10008.1.2.1")
    '1.2.840.10008.1.2.1'
    """

    secret: bytes = field(repr=False)

    def uid(self, uid: str) -> str:
        """Another UID, always the same for the same one; those that the standard defines stay."""
        if UID(uid, config.IGNORE).type:
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}"

    def patient(self, patient_id: str) -> str:
        """The name and identifier of a patient."""
        return f"patient-{self._digest('patient', patient_id).hex()[:12]}"

    def study_name(self, study: str) -> str:
        """A folder's name for a study, from its UID or, where it has none, its place."""
        return f"study-{self._digest('study', study).hex()[:16]}"

    def label(self, text: str) -> str:
        """A short text in place of one that must not be empty."""
        return f"L{self._digest('label', text).hex()[:8]}"

    def checksum(self, checksum: str) -> str:
        """A checksum that only holders of the key can compare with a guess."""
        return self._digest("checksum", checksum).hex()

    def shift(self, patient_id: str) -> timedelta:
        """By how much all dates and times of a patient move: up to ten years back, to the second."""
        number = int.from_bytes(self._digest("shift", patient_id)[:8], "big")
        days = 1 + number % _LONGEST_SHIFT_DAYS
        return -timedelta(days=days, seconds=number // _LONGEST_SHIFT_DAYS % _DAY_S)

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.new(self.secret, f"{kind}\0{text}".encode(), hashlib.sha256).digest()
