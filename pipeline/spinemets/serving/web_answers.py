"""What is accepted as an answer of a DICOMweb node: no page, nothing compressed, nothing without end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests

__all__ = ["AnswerError", "AnswerLimit"]

_PLAIN = ("", "identity")


class AnswerError(requests.RequestException):
    """An answer that is not read any further; its text says what it is."""


class AnswerLimit:
    """Checks the answers of one session, which one thread uses.

    Compressed content is asked not to be sent and never read, since it may grow to any size.

    Parameters
    ----------
    session
        Its answers are checked before anything else sees them.
    most_bytes
        Of an answer or, where it is taken part by part, of each part.
    """

    def __init__(self, session: requests.Session, most_bytes: float) -> None:
        self._most_bytes = most_bytes
        self._taken_bytes = 0
        session.headers["Accept-Encoding"] = "identity"
        session.hooks["response"].append(self._check)

    def begin_part(self) -> None:
        """What comes now belongs to another part than what came before."""
        self._taken_bytes = 0

    def _check(self, response: requests.Response, **_: Any) -> None:
        self.begin_part()
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        problem = ""
        if encoding not in _PLAIN:
            problem = "compressed content, which it was asked not to send"
        elif response.is_redirect and _leads_away(response):
            problem = "a redirection to another host or away from TLS"
        elif response.ok and kind == "text/html":
            problem = "a web page; check its url, and whether somebody must log in"
        if problem:
            response.close()
            raise AnswerError(problem)
        self._watch(response)

    def _watch(self, response: requests.Response) -> None:
        """Count what is read of an answer, in whatever way it is read."""
        chunks = response.iter_content

        def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
            for chunk in chunks(*arguments, **options):
                self._taken_bytes += len(chunk)
                if self._taken_bytes > self._most_bytes:
                    response.close()
                    raise AnswerError(
                        f"more than {self._most_bytes / 2**30:g} GiB at once (limits.object_gib)"
                    )
                yield chunk

        response.iter_content = counted  # type: ignore[method-assign]


def _leads_away(response: requests.Response) -> bool:
    here, there = urlsplit(response.url), urlsplit(response.headers.get("Location", ""))
    is_elsewhere = bool(there.hostname) and there.hostname != here.hostname
    return is_elsewhere or (here.scheme == "https" and there.scheme == "http")
