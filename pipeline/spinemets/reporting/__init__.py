"""What a reviewer gets: JSON, one self-contained HTML page and overlay pictures."""

from spinemets.reporting.assemble import build_report
from spinemets.reporting.text import summary_lines
from spinemets.reporting.write import WrittenReport, write_report

__all__ = ["WrittenReport", "build_report", "summary_lines", "write_report"]
