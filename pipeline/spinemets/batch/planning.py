"""Which studies a batch is made of, and the name that each one's results get."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.batch.manifest import ManifestRow, is_manifest, read_manifest
from spinemets.errors import ConfigError, NoUsableInputError, SpinemetsError
from spinemets.io import StudyListing, discover
from spinemets.results import MAP_NAMES

if TYPE_CHECKING:
    from spinemets.config import ReadingConfig

__all__ = ["PlannedStudy", "Shard", "plan_batch", "study_identity", "study_key"]

_IMAGE_SUFFIX = re.compile(r"(\.nii|\.nii\.gz|\.mha|\.mhd|\.nrrd|\.nhdr|\.dcm|\.ima|\.zip)$", re.IGNORECASE)
_LONGEST_KEY = 80
# Names in the output folder that are not those of studies.
_TAKEN = re.compile(r"logs|private|(summary|findings)\.(csv|parquet)|batch\.jsonl|index\.html", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlannedStudy:
    """One study to analyse, or an input that gave none.

    Attributes
    ----------
    key
        Unique in its batch; the name of its result folder.
    found
        The study's listing, or why the input cannot be read.
    columns
        What a manifest tells of the study beside its name and place.
    is_named
        Whether the user gave the name, in a manifest.
    private, hidden_source
        Words that may stand in no name, record or log, and what stands for the source there;
        empty where identifiers are kept. See ``privacy``.
    """

    key: str
    source: Path
    found: StudyListing | SpinemetsError
    columns: Mapping[str, str] = field(default_factory=dict)
    is_named: bool = False
    private: frozenset[str] = field(default=frozenset(), repr=False)
    hidden_source: str = ""

    @property
    def memory_bytes(self) -> float:
        """About what the study's arrays take between being read and being written."""
        if isinstance(self.found, SpinemetsError):
            return 0.0
        voxels = [math.prod(entry.shape) for entry in self.found.series if entry.kept]
        # The series as read; on the reference's grid the same again, three maps, and one copy in passing.
        return 2.0 * (4 * sum(voxels) + (4 * len(voxels) + 6) * max(voxels, default=0))

    def without_archive(self) -> PlannedStudy:
        """The same study, light enough to be handed to another process."""
        if isinstance(self.found, SpinemetsError):
            return self
        damaged = tuple(file for file in self.found.ignored if file.damaged)
        return replace(self, found=replace(self.found, archive=None, ignored=damaged))


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a batch, told by the names of the studies.

    >>> Shard.parse("2/8")
    Shard(number=2, count=8)
    """

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> Shard:
        """Read a shard as given on the command line.

        Raises
        ------
        ConfigError
            The text is not I/N with 1 <= I <= N.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"shard {text!r}: expected I/N with I from 1 to N, as in 2/8")
        return Shard(int(match[1]), int(match[2]))

    def holds(self, key: str) -> bool:
        """Whether a study of this name is in it; the same in every run, whatever else is planned."""
        return int(hashlib.sha256(key.encode()).hexdigest(), 16) % self.count == self.number - 1


_WHOLE = Shard(1, 1)


def plan_batch(
    inputs: Sequence[Path], config: ReadingConfig | None = None, shard: Shard = _WHOLE
) -> tuple[PlannedStudy, ...]:
    """Find every study of every input; an input that cannot be read is planned as a problem.

    Parameters
    ----------
    inputs
        Files, folders, archives, and manifests (``.csv``, ``.parquet``).
    shard
        Only its studies are planned. Of a manifest, only their files are opened.

    Raises
    ------
    ConfigError, UnreadableFileError
        A manifest is not one.
    """
    listed: list[PlannedStudy] = []
    found: list[PlannedStudy] = []
    for path in inputs:
        if is_manifest(path):
            listed += _plan_manifest(path, config, shard)
        else:
            found += _plan_input(path, config)
    unique = _with_unique_keys(found, taken={study.key.casefold() for study in listed})
    return (*listed, *(study for study in unique if shard.holds(study.key)))


def _plan_input(path: Path, config: ReadingConfig | None) -> list[PlannedStudy]:
    try:
        listings = [listing for listing in discover(path, config) if not _is_own_result(listing.source)]
        if not listings:
            raise NoUsableInputError(f"{path}: holds results of spinemets only; pass the scans themselves")
    except SpinemetsError as error:
        return [PlannedStudy(study_key(path), path, error)]
    return [PlannedStudy(study_key(listing.source), listing.source, listing) for listing in listings]


def _plan_manifest(path: Path, config: ReadingConfig | None, shard: Shard) -> list[PlannedStudy]:
    studies: list[PlannedStudy] = []
    seen: set[str] = set()
    for number, row in enumerate(read_manifest(path), start=1):
        key = _safe_name(row.study) or "study"
        is_repeated = key.casefold() in seen
        if is_repeated:
            key = f"{key}-row{number}"
        seen.add(key.casefold())
        if not shard.holds(key):
            continue
        found: StudyListing | SpinemetsError = (
            ConfigError(f"{path.name}: row {number} names the study {row.study!r} a second time")
            if is_repeated
            else _of_row(row, key, config)
        )
        studies.append(PlannedStudy(key, row.path, found, row.columns, is_named=True))
    return studies


def _of_row(row: ManifestRow, key: str, config: ReadingConfig | None) -> StudyListing | SpinemetsError:
    """The one study of a row's path; of several, the one that the row says, or of the row's name."""
    found = _with_unique_keys(_plan_input(row.path, config))
    chosen = found if len(found) == 1 else [study for study in found if study.key == (row.within or key)]
    if chosen:
        return chosen[0].found
    return NoUsableInputError(
        f"{row.path}: holds {len(found)} studies, none of them named {row.within or key}; "
        "give each a row with its own path"
    )


def _is_own_result(source: Path) -> bool:
    """Whether this is a map from an earlier run whose output lies among its inputs."""
    return source.name in MAP_NAMES and (source.parent / "report.json").is_file()


def study_key(source: Path) -> str:
    """A folder name for a study, from the name of the file or folder it came from.

    >>> study_key(Path("scans/sub-01 (T2).nii.gz"))
    'sub-01_T2'
    """
    return _safe_name(_IMAGE_SUFFIX.sub("", source.name or source.resolve().name)) or "study"


def _safe_name(text: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    name = name[:_LONGEST_KEY].rstrip("._-")
    return f"study_{name}" if _TAKEN.fullmatch(name) else name


def _with_unique_keys(
    studies: Sequence[PlannedStudy], taken: Collection[str] = ()
) -> tuple[PlannedStudy, ...]:
    """Each study once; those of one place are told apart by their description, or by a hash."""
    distinct = {study_identity(study): study for study in studies}
    for extended in (_described_key, _hashed_key):
        # File systems that ignore case must not merge two studies.
        count = Counter([*taken, *(study.key.casefold() for study in distinct.values())])
        distinct = {
            identity: replace(study, key=extended(study)) if count[study.key.casefold()] > 1 else study
            for identity, study in distinct.items()
        }
    return tuple(distinct.values())


def _described_key(study: PlannedStudy) -> str:
    description = "" if isinstance(study.found, SpinemetsError) else _safe_name(study.found.description)
    # BIDS descriptions begin with the subject, which is the folder's name too.
    return description if description.startswith(study.key) else _safe_name(f"{study.key}_{description}")


def _hashed_key(study: PlannedStudy) -> str:
    return f"{study.key}-{study_identity(study)[:8]}"


def study_identity(study: PlannedStudy) -> str:
    """The same for the same study in the same place, whatever else is in the batch."""
    parts = [str(study.source.resolve())]
    if not isinstance(study.found, SpinemetsError):
        # Copies of one image have one UID, and files of one folder may be several studies.
        parts += [study.found.study_uid, study.found.description]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
