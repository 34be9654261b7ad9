"""Other nodes: what can be asked of them, whichever way they are spoken to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset

from spinemets.errors import ConfigError
from spinemets.serving.inbox import Inbox
from spinemets.serving.settings import DimseNode, ServeSettings

__all__ = [
    "HELD_ALREADY",
    "Query",
    "Remote",
    "RemoteSeries",
    "connect",
    "image_count",
    "is_uid",
    "need_extra",
]

IMAGE_MODALITY = "MR"
HELD_ALREADY = 0x0111
"""Duplicate SOP Instance (PS3.7 C.5): of objects whose UIDs follow from their content, as good as success."""
# PS3.5 6.2: the greatest integer string.
_MOST_IMAGES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Query:
    """Which studies are looked for; what is empty does not narrow.

    Attributes
    ----------
    dates
        A day or a range, as in 20260131 or 20260101-20260131 or 20260101-.
    description
        Of the study; may hold the wildcards * and ?.
    """

    study_uid: str = ""
    accession_number: str = ""
    dates: str = ""
    description: str = ""

    @property
    def filters(self) -> dict[str, str]:
        """Keyword and value of what narrows the search.

        >>> Query(dates="20260131").filters
        {'StudyDate': '20260131', 'ModalitiesInStudy': 'MR'}
        """
        values = {
            "StudyInstanceUID": self.study_uid,
            "AccessionNumber": self.accession_number,
            "StudyDate": self.dates,
            "StudyDescription": self.description,
            "ModalitiesInStudy": IMAGE_MODALITY,
        }
        return {keyword: value for keyword, value in values.items() if value}


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series of MR images on another node; ``images`` is 0 where it neither counts nor lists them."""

    study_uid: str
    uid: str
    images: int


def is_uid(text: str) -> bool:
    """Whether a node may mean this as a UID, standard or not: no path, nothing that cannot be stored.

    >>> is_uid("1.2.840.1"), is_uid("../1"), is_uid(""), is_uid("1" * 65)
    (True, False, False, False)
    """
    return re.fullmatch(r"[0-9A-Za-z.-]{1,64}", text) is not None and ".." not in text


def image_count(answer: Dataset) -> int:
    """How many images a node says a series has; 0 where it does not say, or no series can have so many.

    Raises
    ------
    ValueError, TypeError
        It says what is not one number.
    """
    images = int(answer.get("NumberOfSeriesRelatedInstances") or 0)
    return images if 0 < images <= _MOST_IMAGES else 0


class Remote(Protocol):
    """Another node. Every method raises ``NetworkError`` where the node cannot be reached or refuses."""

    def check(self) -> None:
        """See whether the node answers."""

    def find(self, query: Query) -> tuple[RemoteSeries, ...]:
        """The MR series of the studies that match."""
        ...

    def retrieve(self, series: RemoteSeries, inbox: Inbox) -> None:
        """Get a series into the inbox, here or through the receiver."""

    def send(self, paths: Sequence[Path]) -> None:
        """Give DICOM files to the node."""


def need_extra() -> None:
    """See whether the packages for DICOM networks are installed.

    Raises
    ------
    ConfigError
        They are not.
    """
    missing = [name for name in ("pynetdicom", "dicomweb_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} not installed; install the extra with "
            "pip install 'spinemets[dicom-net]'"
        )


def connect(name: str, settings: ServeSettings) -> Remote:
    """The node of a name; nothing is sent to it yet.

    Raises
    ------
    ConfigError
        There is none of that name, or its certificates or secrets cannot be read.
    """
    node = settings.nodes.get(name)
    if node is None:
        known = ", ".join(settings.nodes) or "none"
        raise ConfigError(f"there is no node {name!r} in the settings; there is {known}")
    if isinstance(node, DimseNode):
        from spinemets.serving.dimse import DimseRemote

        return DimseRemote(name, node, settings.receive.ae_title)
    from spinemets.serving.dicomweb import WebRemote

    return WebRemote(name, node, settings.limits.object_gib * 2**30)
