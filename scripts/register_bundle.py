"""Record the checksums of a model bundle's files in the registry beside it.

Run it after every change to a bundle: ``python scripts/register_bundle.py models/spine_metastasis_mri``.
"""

from __future__ import annotations

from pathlib import Path

import click

from spinemets.bundles import reading_checksum, register_bundle
from spinemets.errors import ModelError


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(bundle: Path) -> None:
    """Record the checksums of BUNDLE, a bundle's folder, in registry.json beside it."""
    try:
        registry = register_bundle(bundle)
    except ModelError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"registered {bundle.name} in {registry}")
    click.echo(f"--trust-model checksum: {reading_checksum(bundle)}")


if __name__ == "__main__":
    main()
