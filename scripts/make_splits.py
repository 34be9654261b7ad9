"""Write who of a data set is for training, validation and test: a JSON file for ``split`` in a recipe.

python scripts/make_splits.py spider DIR -o configs/train/splits/spider.json --test 11 45
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from spinemets.atomic import atomic_write_text
from spinemets.errors import SpinemetsError
from spinemets.training.datasets import LAYOUTS, Case
from spinemets.training.splits import draw_split, split_document


def main() -> int:
    """Parse and write; the same patients are always put into the same parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(LAYOUTS), help="the data set's layout")
    parser.add_argument("folder", type=Path, nargs="?", help="where the data set lies")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--patients", nargs="+", metavar="NAME", help="instead of a folder; A..B stands for numbers"
    )
    for part, share in (("validation", 0.1), ("test", 0.2)):
        parser.add_argument(
            f"--{part}-share",
            type=float,
            default=share,
            metavar="SHARE",
            help=f"of the patients; not drawn where the data set has a {part} part of its own "
            "(default: %(default)s)",
        )
    for part in ("train", "validation", "test"):
        parser.add_argument(
            f"--{part}", nargs="+", default=[], metavar="NAME", help="patients that must be in it"
        )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if (arguments.folder is None) == (arguments.patients is None):
        parser.error("give either a folder or --patients")
    if not all(0 <= share <= 1 for share in (arguments.validation_share, arguments.test_share)):
        parser.error("--validation-share and --test-share must be 0 to 1")
    try:
        if arguments.folder is not None:
            cases: Iterable[Case] = LAYOUTS[arguments.kind].find(arguments.folder)
        else:
            try:
                cases = [Case(name, name, {}) for name in _names(arguments.patients)]
            except ValueError as error:
                parser.error(str(error))
        cases = list(cases)
        named = {*arguments.train, *arguments.validation, *arguments.test}
        strange = sorted(named - {case.patient for case in cases})
        if strange:
            parser.error(f"no such patients in the data set: {', '.join(strange)}")
        split = draw_split(
            cases,
            {"validation": arguments.validation_share, "test": arguments.test_share},
            {"train": arguments.train, "validation": arguments.validation, "test": arguments.test},
            arguments.seed,
        )
        note = f"{arguments.kind}, by scripts/make_splits.py with seed {arguments.seed}"
        atomic_write_text(arguments.output, split_document(split, note))
    except SpinemetsError as error:
        print(f"make_splits: {error}", file=sys.stderr)
        return 2
    print(f"{len(split.train)} to train on, {len(split.validation)} to validate, {len(split.test)} to test")
    return 0


def _names(words: Iterable[str]) -> list[str]:
    """The words, with ``Case1..3`` written out as Case1, Case2, Case3.

    Raises
    ------
    ValueError
        A word with dots names no patient.
    """
    names = []
    for word in words:
        first, dots, last = word.partition("..")
        stem = first.rstrip("0123456789")
        if dots:
            start = first[len(stem) :]
            if not (start.isdecimal() and last.isdecimal() and int(start) <= int(last)):
                raise ValueError(f"--patients: {word} names no patient; expected as in Case1..3")
            names += [f"{stem}{number}" for number in range(int(start), int(last) + 1)]
        else:
            names.append(word)
    return names


if __name__ == "__main__":
    sys.exit(main())
