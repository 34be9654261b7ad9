"""Write ``docs/report.schema.json`` from the report's models."""

from __future__ import annotations

from pathlib import Path

import click

from spinemets.reporting.schema import json_schema_text

TARGET = Path(__file__).resolve().parents[1] / "docs/report.schema.json"


@click.command()
def main() -> None:
    """Write docs/report.schema.json, as a test compares it with the report's models."""
    TARGET.write_text(json_schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
