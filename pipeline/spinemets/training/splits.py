"""Who is trained on, who chooses between checkpoints, and who is kept for the test.

A split is a JSON file of patients, made once and kept. A patient's part follows from a hash of
the name alone, so that it does not change when others join the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from spinemets.errors import ConfigError
from spinemets.training.datasets.cases import Case, Subset

__all__ = ["Split", "draw_split", "read_split", "split_document"]

_PARTS: tuple[Subset, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Patients by part; no patient is in two."""

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]

    def part(self, name: Subset) -> frozenset[str]:
        """The patients of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def draw_split(
    cases: Iterable[Case],
    shares: Mapping[Subset, float],
    fixed: Mapping[Subset, Iterable[str]] | None = None,
    seed: int = 0,
) -> Split:
    """Put every patient into a part.

    The data set's own validation and test subsets stand; of a part that it has not, a share is
    drawn from all others, those for training too. ``fixed`` goes above everything.

    Parameters
    ----------
    shares
        Of validation and test, in [0, 1]; the rest is for training. The share of a part that the
        data set has itself is not drawn in addition.

    Raises
    ------
    ConfigError
        A patient is fixed to two parts, or is in two subsets of the data set.
    """
    parts: dict[str, Subset] = {}
    for part, patients in (fixed or {}).items():
        for patient in patients:
            if parts.setdefault(patient, part) != part:
                raise ConfigError(f"patient {patient} is asked for in {parts[patient]} and in {part}")
    own: dict[str, Subset | None] = {}
    for case in cases:
        subset = parts.get(case.patient) or case.subset
        known = own.get(case.patient)
        if known and subset and known != subset:
            raise ConfigError(
                f"patient {case.patient} is in {known} and in {subset} of the data set; "
                "name one part with --train, --validation or --test"
            )
        own[case.patient] = known or subset
    there = {subset for patient, subset in own.items() if patient not in parts}
    open_shares = {part: share for part, share in shares.items() if part not in there}
    drawn = {
        patient: parts.get(patient)
        or (subset if subset in ("validation", "test") else _by_hash(patient, open_shares, seed))
        for patient, subset in own.items()
    }
    return Split(*(frozenset(p for p, part in drawn.items() if part == name) for name in _PARTS))


def _by_hash(patient: str, shares: Mapping[Subset, float], seed: int) -> Subset:
    place = int.from_bytes(hashlib.sha256(f"{seed}/{patient}".encode()).digest()[:6], "big") / 2**48
    test, validation = shares.get("test", 0.0), shares.get("validation", 0.0)
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def split_document(split: Split, note: str) -> str:
    """The file of a split, a patient a line."""
    document: dict[str, object] = {"note": note}
    document |= {name: sorted(split.part(name)) for name in _PARTS}
    return json.dumps(document, indent=1) + "\n"


def read_split(path: Path) -> Split:
    """Read a split file.

    Raises
    ------
    ConfigError
        There is none, it is no split, or a patient is in two parts.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: [str(patient) for patient in document.get(name, ())] for name in _PARTS}
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); make it with scripts/make_splits.py"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f'{path}: is no split, a JSON object with "train": [...]: {error}') from error
    everyone = [patient for patients in parts.values() for patient in patients]
    twice = sorted({patient for patient in everyone if everyone.count(patient) > 1})
    if twice:
        raise ConfigError(f"{path}: {', '.join(twice[:5])} named twice; a patient belongs to one part")
    return Split(*(frozenset(parts[name]) for name in _PARTS))
