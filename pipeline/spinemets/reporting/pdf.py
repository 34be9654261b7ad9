"""The report as a PDF to print and to archive, from the template of the page.

The PDF is tagged, carries its fonts, and follows PDF/UA-1. It is made without scripts, and
nothing in it may name a file or an address.
"""

from __future__ import annotations

import logging

from spinemets.errors import OutputError
from spinemets.reporting.html import Pictures, render_html
from spinemets.reporting.schema import ReportDocument

__all__ = ["render_pdf"]


def render_pdf(document: ReportDocument, pictures: Pictures) -> bytes:
    """The report of a study as a PDF of A4 pages.

    Raises
    ------
    OutputError
        WeasyPrint, or the Pango library it needs, is not installed.
    """
    try:
        from weasyprint import HTML
        from weasyprint.urls import URLFetcher
    except (ImportError, OSError) as error:
        raise OutputError(
            f"a PDF needs WeasyPrint and the Pango library ({error}); install the extra with "
            "pip install 'spinemets[pdf]' and see WeasyPrint's installation page, or leave the format out"
        ) from error
    # They tell of each font's tables, and of properties that concern screens.
    for name in ("weasyprint", "fontTools"):
        logging.getLogger(name).setLevel(logging.ERROR)
    page = HTML(
        string=render_html(document, pictures, None), url_fetcher=URLFetcher(allowed_protocols=("data",))
    )
    content: bytes = page.write_pdf(pdf_variant="pdf/ua-1")
    return content
