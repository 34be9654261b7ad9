"""Write ``docs/report.schema.json`` from the report's models."""

from __future__ import annotations

from pathlib import Path

from spinemets.reporting.schema import json_schema_text

if __name__ == "__main__":
    target = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"
    target.write_text(json_schema_text(), encoding="utf-8")
