"""Write configs/detect.yaml: every setting of a detection with its default and its meaning.

Run it after a change of a setting: ``python scripts/write_detect_config.py``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import yaml
from pydantic import BaseModel

from spinemets.atomic import atomic_write_text
from spinemets.config import DetectionConfig
from spinemets.errors import OutputError

DEFAULT_PATH = Path(__file__).resolve().parents[1] / "configs" / "detect.yaml"

HEAD = """\
# Every setting of `spinemets detect` with its default. Pass a copy with --config; keys that are
# left out keep these values, and options given on the command line win.
# Written by scripts/write_detect_config.py from pipeline/spinemets/config.py.
"""


def configuration_text() -> str:
    """The default configuration as YAML, each setting below what it means."""
    defaults = DetectionConfig()
    lines = [line for name in DetectionConfig.model_fields for line in _branch(name, getattr(defaults, name))]
    return HEAD + "\n".join(lines) + "\n"


def _branch(name: str, settings: BaseModel) -> Iterator[str]:
    yield ""
    yield f"# {(type(settings).__doc__ or '').strip()}"
    yield f"{name}:"
    values = settings.model_dump(mode="json")
    for key, field in type(settings).model_fields.items():
        if field.exclude:
            continue
        yield from (f"  # {line}" for line in textwrap.wrap(field.description or "", 100))
        value = yaml.safe_dump(values[key], default_flow_style=True).removesuffix("\n...\n").strip()
        yield f"  {key}: {value}"


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_PATH)
def main(path: Path) -> None:
    """Write the default configuration to PATH."""
    try:
        atomic_write_text(path, configuration_text())
    except OutputError as error:
        raise click.UsageError(str(error)) from error


if __name__ == "__main__":
    main()
