"""A node that is spoken to by DICOMweb: QIDO-RS, WADO-RS and STOW-RS."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests.adapters import HTTPAdapter

from spinemets.errors import NetworkError, OutputError, UnreadableFileError
from spinemets.io.dicom_headers import DAMAGE_ERRORS
from spinemets.serving.inbox import Inbox, refuse_deflated
from spinemets.serving.remotes import HELD_ALREADY, IMAGE_MODALITY, Query, RemoteSeries, image_count
from spinemets.serving.settings import Tls, WebNode
from spinemets.serving.tls import web_context
from spinemets.serving.web_answers import AnswerError, AnswerLimit

__all__ = ["WebRemote"]

_CONNECTING_S, _ANSWERING_S = 15.0, 120.0
_PAGE = 200
# Far above what any search of some days gives, far below what fills the memory.
_MOST_ANSWERS = 100_000
_AS_STORED = (("application/dicom", "*"),)
_CONFLICT = 409
# The second is what Microsoft's DICOM service says.
_HELD_ALREADY = (HELD_ALREADY, 0xB00E)
_ANSWERS = ("application/dicom+json", "application/json", "application/dicom+xml", "application/xml")


class WebRemote:
    """A node of a DICOMweb service.

    Parameters
    ----------
    name
        What the settings call it.
    most_bytes
        Of an object, or an answer to a search, that is taken.

    Raises
    ------
    ConfigError
        The files for TLS cannot be used, or a secret is not in the environment.
    """

    def __init__(self, name: str, node: WebNode, most_bytes: float) -> None:
        self._name = name
        session = self._session = requests.Session()
        # Proxies and passwords of the environment are not for a clinical network.
        session.trust_env = False
        session.mount("https://", _TlsAdapter(web_context(node.tls or Tls())))
        if node.user is not None and node.password_variable is not None:
            session.auth = (node.user, node.secret(node.password_variable))
        if node.token_variable is not None:
            session.headers["Authorization"] = f"Bearer {node.secret(node.token_variable)}"
        self._client = _Client(node.url, session, AnswerLimit(session, most_bytes))

    def close(self) -> None:
        """End the connections that are kept for further requests."""
        self._session.close()

    def check(self) -> None:
        """See whether the node answers a search.

        Raises
        ------
        NetworkError
            It does not.
        """
        with self._told_as_network_error("search"):
            self._client.search_for_studies(limit=1)

    def find(self, query: Query) -> tuple[RemoteSeries, ...]:
        """Ask for studies, and then for the MR series of each.

        Raises
        ------
        NetworkError
            The node cannot be reached or refuses.
        """
        series: list[RemoteSeries] = []
        with self._told_as_network_error("search"):
            for uid in self._search("StudyInstanceUID", self._client.search_for_studies, query.filters):
                search = partial(self._client.search_for_series, uid)
                answers = self._search("SeriesInstanceUID", search, {"Modality": IMAGE_MODALITY})
                series += [
                    RemoteSeries(uid, one, image_count(answer) or self._count_images(uid, one))
                    for one, answer in answers.items()
                ]
        return tuple(series)

    def _count_images(self, study_uid: str, series_uid: str) -> int:
        """How many images the node lists of a series that it does not count; 0 where it cannot say."""
        search = partial(self._client.search_for_instances, study_uid, series_uid)
        try:
            return len(self._search("SOPInstanceUID", search, {}))
        except (requests.Timeout, requests.ConnectionError):
            raise
        except DAMAGE_ERRORS:
            # Among them those of requests: not every node can be asked for instances.
            return 0

    def retrieve(self, series: RemoteSeries, inbox: Inbox) -> None:
        """Get a series, in the transfer syntax that it is stored in, into the inbox.

        Raises
        ------
        NetworkError
            The node cannot be reached or refuses.
        OutOfRoomError, OutputError
            The inbox does not take an instance.
        UnreadableFileError
            An instance is damaged or deflated; the others are in the inbox.
        """
        self._client.refusals.clear()
        with self._told_as_network_error("retrieval"):
            instances = self._client.iter_series(series.study_uid, series.uid, media_types=_AS_STORED)
        damage = self._client.refusals
        while True:
            with self._told_as_network_error("retrieval"):
                instance = next(instances, None)
            if instance is None:
                break
            buffer = BytesIO()
            with self._told_as_network_error("retrieval"):
                instance.save_as(buffer, enforce_file_format=True)
            try:
                inbox.take(buffer.getvalue())
            except UnreadableFileError as error:
                damage.append(error)
        if damage:
            raise damage[0]

    def send(self, paths: Sequence[Path]) -> None:
        """Send files by STOW-RS, one by one; all are tried before the first refusal is told.

        Raises
        ------
        NetworkError
            The node cannot be reached or refuses a file.
        OutputError
            A file cannot be read.
        """
        refusals: list[str] = []
        for path in paths:
            try:
                instance = pydicom.dcmread(path)
            except (OSError, InvalidDicomError) as error:
                raise OutputError(f"{path.name}: a result that was to be sent cannot be read") from error
            with self._told_as_network_error(f"storing of {path.name}"):
                reason = self._client.store(instance)
            if reason:
                refusals.append(f"{path.name} with {reason}")
        if refusals:
            raise NetworkError(f"{self._name}: refused {refusals[0]}; {len(refusals)} files in all")

    def _search(
        self, keyword: str, search: Callable[..., list[dict[str, Any]]], filters: dict[str, str]
    ) -> dict[str, Dataset]:
        """Every answer to a search by its UID, page by page.

        A node may give fewer at a time than it is asked for, and need not know of pages
        (PS3.18 8.3.4.4), so the last page is the one that brings nothing new.
        """
        found: dict[str, Dataset] = {}
        offset = 0
        while True:
            answers = search(limit=_PAGE, offset=offset, search_filters=dict(filters))
            page = {str(answer[keyword].value): answer for answer in map(Dataset.from_json, answers)}
            if page.keys() <= found.keys():
                return found
            found |= page
            offset += len(answers)
            if len(found) > _MOST_ANSWERS:
                raise AnswerError(f"more than {_MOST_ANSWERS} results; narrow the search")

    @contextmanager
    def _told_as_network_error(self, what: str) -> Iterator[None]:
        """Errors of the transport without their texts, which quote addresses with UIDs in them."""
        try:
            yield
        except requests.HTTPError as error:
            code = "an error" if error.response is None else f"HTTP status {error.response.status_code}"
            raise NetworkError(f"{self._name}: answered the {what} with {code}") from error
        except AnswerError as error:
            raise NetworkError(f"{self._name}: answered the {what} with {error}") from error
        except requests.exceptions.InvalidJSONError as error:
            raise NetworkError(f"{self._name}: answered the {what} with what is no JSON") from error
        except (requests.exceptions.ContentDecodingError, requests.exceptions.ChunkedEncodingError) as error:
            raise NetworkError(
                f"{self._name}: answered the {what} with content that ends early or cannot be decoded"
            ) from error
        except requests.exceptions.SSLError as error:
            raise NetworkError(
                f"{self._name}: no TLS connection; check its certificate and tls.authority"
            ) from error
        except requests.RequestException as error:
            raise NetworkError(
                f"{self._name}: is not to be reached for the {what} ({type(error).__name__})"
            ) from error
        except (*DAMAGE_ERRORS, ParseError) as error:
            raise NetworkError(
                f"{self._name}: answered the {what} with what is not DICOMweb ({type(error).__name__})"
            ) from error


class _Client(DICOMwebClient):
    """Passes over deflated objects, which grow to any size as soon as they are read, and reads refusals.

    Attributes
    ----------
    refusals
        Why objects were passed over.
    """

    def __init__(self, url: str, session: requests.Session, limit: AnswerLimit) -> None:
        super().__init__(url, session, permissive_uid=True, timeout=(_CONNECTING_S, _ANSWERING_S))
        self.set_http_retry_params(retry=False)
        self._limit = limit
        self.refusals: list[UnreadableFileError] = []
        self._is_conflict = False
        session.hooks["response"] += [_refuse_deflated_body, _name_plainly]

    def store(self, instance: Dataset) -> str:
        """Store an instance; why the node does not have it, or nothing."""
        self._is_conflict = False
        try:
            answer = self.store_instances([instance])
        except (*DAMAGE_ERRORS, ParseError):
            if not self._is_conflict:
                raise
            answer = Dataset()
        reasons = [int(failed.get("FailureReason") or 0) for failed in answer.get("FailedSOPSequence") or ()]
        if self._is_conflict and not reasons:
            return f"HTTP status {_CONFLICT}"
        return next((f"reason {reason:04X}" for reason in reasons if reason not in _HELD_ALREADY), "")

    def _http_post(self, url: str, data: bytes, headers: dict[str, str]) -> requests.Response:
        try:
            return super()._http_post(url, data, headers)
        except requests.HTTPError as error:
            # That none was stored (PS3.18 10.5.3); the answer says why, and others may be taken.
            if error.response is None or error.response.status_code != _CONFLICT:
                raise
            self._is_conflict = True
            return error.response

    def _decode_multipart_message(self, response: requests.Response, stream: bool) -> Iterator[bytes]:
        for part in super()._decode_multipart_message(response, stream):
            self._limit.begin_part()
            try:
                refuse_deflated(part)
            except UnreadableFileError as error:
                self.refusals.append(error)
            else:
                yield part


def _refuse_deflated_body(response: requests.Response, **_: Any) -> None:
    """Some nodes send an object alone, without the parts of a message around it."""
    is_read_as_object = response.headers.get("Content-Type", "").startswith("application/dicom")
    if is_read_as_object and response.content[128:132] == b"DICM":
        refuse_deflated(response.content)


def _name_plainly(response: requests.Response, **_: Any) -> None:
    """DICOMwebClient reads no answer to a storing whose kind has parameters, as in "; charset=utf-8"."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _ANSWERS:
        response.headers["Content-Type"] = kind


class _TlsAdapter(HTTPAdapter):
    """Connects with a TLS context of our own, and trusts those whom it trusts."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._context)

    def cert_verify(self, conn: Any, *_: Any) -> None:
        """Require a certificate; requests would have its own list of authorities trusted besides."""
        conn.cert_reqs = "CERT_REQUIRED"
