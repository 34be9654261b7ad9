"""What a batch left in its output folder, so that two runs can be compared."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

__all__ = ["results"]


def results(out: Path) -> dict[str, object]:
    """Everything in an output folder, times and the runs' names aside.

    Raises
    ------
    ValueError
        A study has two records: it was done twice.
    """
    content: dict[str, object] = {}
    for path in sorted(file for file in out.rglob("*") if file.is_file() and file.name != "summary.parquet"):
        name = path.relative_to(out).as_posix()
        if path.name == "report.json":
            document = json.loads(path.read_text())
            del document["provenance"]["timings_s"]
            content[name] = document
        elif path.name == "report.html":
            content[name] = re.sub(r"<dt>Time</dt><dd>[^<]*</dd>", "", path.read_text())
        elif path.name == "summary.csv":
            rows = csv.DictReader(io.StringIO(path.read_text()))
            content[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.name == "batch.jsonl":
            content[name] = _records(path)
        elif path.parent.name == "logs":
            content[name] = path.read_text().splitlines()[-1]
        else:
            content[name] = path.read_bytes()
    return content


def _records(path: Path) -> dict[str, object]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    twice = [study for study, count in Counter(line["study"] for line in lines).items() if count > 1]
    if twice:
        raise ValueError(f"done twice: {', '.join(twice)}")
    return {
        line["study"]: {k: v for k, v in line.items() if k not in ("seconds", "run", "ended")}
        for line in lines
    }
