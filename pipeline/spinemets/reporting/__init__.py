"""What a reviewer gets: JSON, one self-contained HTML page and overlay pictures."""

from spinemets.reporting.assemble import build_report
from spinemets.reporting.text import summary_lines

__all__ = ["build_report", "summary_lines"]
