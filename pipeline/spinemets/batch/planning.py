"""Which studies a batch is made of, and the name that each one's results get."""

from __future__ import annotations

import hashlib
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.batch.manifest import ManifestRow, is_manifest, read_manifest
from spinemets.batch.names import is_reserved
from spinemets.errors import (
    ConfigError,
    NoUsableInputError,
    SpinemetsError,
    UnreadableFileError,
    UnsupportedInputError,
)
from spinemets.io import PackedFiles, StudyListing, discover, is_dicom_series
from spinemets.io.temporary import remove_abandoned
from spinemets.results import MAP_NAMES

if TYPE_CHECKING:
    from spinemets.config import ReadingConfig

__all__ = [
    "PlannedStudy",
    "Shard",
    "place_of",
    "plan_batch",
    "real_path",
    "study_identity",
    "study_key",
    "study_mark",
]

_IMAGE_SUFFIX = re.compile(r"(\.nii|\.nii\.gz|\.mha|\.mhd|\.nrrd|\.nhdr|\.dcm|\.ima|\.zip)$", re.IGNORECASE)
_LONGEST_KEY = 80
_MARK = re.compile(r"[0-9a-f]{8}-[0-9a-f]{16}")


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
    name
        As the user gave it in a manifest; empty where the key was made otherwise.
    private, hidden_source
        Words that may stand in no name, record or log, and what stands for the source there;
        empty where identifiers are kept. See ``privacy``.
    """

    key: str
    source: Path
    found: StudyListing | SpinemetsError
    columns: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
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

    def to_hand_on(self) -> PlannedStudy:
        """The same study, light enough to be handed to another process."""
        if isinstance(self.found, SpinemetsError):
            return self
        archive = self.found.archive
        if archive is not None:
            archive = PackedFiles(archive.path, archive.folder)
        return replace(self, found=replace(self.found, archive=archive, ignored=()))


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
    # Killed runs may have left archives unpacked, and this one need not unpack any.
    remove_abandoned()
    rows = [
        _Row(path, number, row)
        for path in inputs
        if is_manifest(path)
        for number, row in enumerate(read_manifest(path), start=1)
    ]
    keys = _given_keys([row.content.study for row in rows])
    listed = _plan_rows(rows, keys, config, shard)
    found = [study for path in inputs if not is_manifest(path) for study in _plan_input(path, config)]
    unique = _with_unique_keys(found, taken={key.casefold() for key in keys})
    planned = (*listed, *(study for study in unique if shard.holds(study.key)))
    twice = [key for key, count in Counter(study.key.casefold() for study in planned).items() if count > 1]
    if twice:
        raise ConfigError(f"two studies would both be named {twice[0]}; give them other names in a manifest")
    return planned


def _plan_input(path: Path, config: ReadingConfig | None) -> list[PlannedStudy]:
    if not _is_text(path):
        return [_without_text(path)]
    try:
        listings = [listing for listing in discover(path, config) if not _is_own_result(listing.source)]
        if not listings:
            raise NoUsableInputError(f"{path}: holds results of spinemets only; pass the scans themselves")
    except SpinemetsError as error:
        return [PlannedStudy(study_key(path), path, error)]
    except Exception as error:
        # As in the batch itself: whatever is wrong with one input, the others go on.
        problem = UnreadableFileError(f"{path}: cannot be looked through (unexpected {type(error).__name__})")
        problem.__cause__ = error
        return [PlannedStudy(study_key(path), path, problem)]
    return [_planned(listing) for listing in listings]


def _planned(listing: StudyListing) -> PlannedStudy:
    """A study as it was found; one whose files have names that cannot be written down is a problem."""
    files = (file for entry in listing.series for file in entry.series.files)
    if all(_is_text(path) for path in (listing.source, *files)):
        return PlannedStudy(study_key(listing.source), listing.source, listing)
    return _without_text(listing.source)


def _is_text(path: Path) -> bool:
    """Whether a path is text, and not bytes of another encoding than the file system's."""
    return not any("\udc80" <= character <= "\udcff" for character in str(path))


def _without_text(path: Path) -> PlannedStudy:
    source = Path(os.fsencode(path).decode("utf-8", "backslashreplace"))
    problem = UnsupportedInputError(
        f"{source}: its path, or that of a file of it, is no UTF-8 text; rename what is named so"
    )
    return PlannedStudy(study_key(source), source, problem)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of one of several manifests."""

    manifest: Path
    number: int
    content: ManifestRow


def _plan_rows(
    rows: Sequence[_Row], keys: Sequence[str], config: ReadingConfig | None, shard: Shard
) -> list[PlannedStudy]:
    """The studies of all manifests; of those that have one name, in whatever case, only the first."""
    first: dict[str, str] = {}
    places: dict[Path, Sequence[PlannedStudy]] = {}
    studies: list[PlannedStudy] = []
    for entry, key in zip(rows, keys, strict=True):
        row = entry.content
        before = first.setdefault(_plain(row.study), key)
        if not shard.holds(key):
            continue
        found: StudyListing | SpinemetsError
        if before != key:
            found = ConfigError(
                f"{entry.manifest.name}: row {entry.number} names the study {row.study!r} a second time"
            )
        else:
            if row.path not in places:
                places[row.path] = _with_unique_keys(_plan_input(row.path, config))
            found = _of_row(row, key, places[row.path])
        studies.append(PlannedStudy(key, row.path, found, row.columns, name=row.study))
    return studies


def _of_row(row: ManifestRow, key: str, found: Sequence[PlannedStudy]) -> StudyListing | SpinemetsError:
    """The one study of a row's path; of several, the one that the row says, or of the row's name."""
    if len(found) == 1 and isinstance(found[0].found, SpinemetsError):
        return found[0].found
    named = [(study.key, study.found) for study in found if not isinstance(study.found, SpinemetsError)]
    listings = [listing for _, listing in named]
    if _MARK.fullmatch(row.within):
        salt = row.within.split("-")[0]
        marked = [listing for listing in listings if _marked(listing, salt) == row.within]
        chosen = [listing for listing in marked if real_path(listing.source) == real_path(row.path)] or marked
        missing = "the one that the row was written for; make the manifest anew"
    else:
        wanted = row.within or key
        chosen = (
            listings
            if len(found) == 1
            else [listing for name, listing in named if wanted in (name, listing.study_uid)]
        )
        missing = "named as the row says; give the name or the UID of the one that is meant in study_in_path"
    if len(chosen) == 1:
        return chosen[0]
    return NoUsableInputError(f"{row.path}: of the {len(found)} studies in it, {len(chosen)} are {missing}")


def _given_keys(names: Sequence[str]) -> list[str]:
    """Names of folders for the names that a user gave, different from each other in any file system.

    What cannot stand in a folder's name is told by a hash, where that is needed to tell two apart.

    >>> _given_keys(["case 1", "Anna", "\u0410\u043d\u043d\u0430", "anna"])
    ['case_1', 'Anna', 'study-80e29e9a', 'Anna-row4']
    """
    safe = {_plain(name): _safe_name(name) for name in reversed(names)}
    count = Counter(key.casefold() for key in safe.values())
    keys: list[str] = []
    taken: set[str] = set()
    own: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        plain = _plain(name)
        key = safe[plain]
        if plain in own:
            key = f"{own[plain]}-row{number}"
        elif not key or (count[key.casefold()] > 1 and key.casefold() != plain):
            key = f"{key or 'study'}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
        while key.casefold() in taken:
            key += "_"
        taken.add(key.casefold())
        own.setdefault(plain, key)
        keys.append(key)
    return keys


def _plain(name: str) -> str:
    """A given name as it is compared with others."""
    return unicodedata.normalize("NFC", name).casefold()


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
    return f"study_{name}" if is_reserved(name) else name


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


def place_of(source: Path) -> str:
    """A path told in one way, from whatever folder and by whatever way it is reached.

    Its last part is not followed: a file may be a link into a store that names it by its content.
    """
    return os.path.normpath(real_path(source.parent) / source.name)


def real_path(path: Path) -> Path:
    """A path without links and dots; also of one that leads nowhere or in a circle."""
    return Path(os.path.realpath(path))


def study_identity(study: PlannedStudy) -> str:
    """The same for the same study in the same place, whatever else is in the batch."""
    parts = [str(real_path(study.source))]
    if not isinstance(study.found, SpinemetsError):
        # Files of one folder may be several studies.
        parts += [_within(study.found), study.found.description]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def study_mark(listing: StudyListing, name: str) -> str:
    """What tells a study from others of the same place in a manifest, without saying what it is.

    Parameters
    ----------
    name
        Of the study in the manifest: a salt, so that marks of two manifests cannot be compared.
    """
    return _marked(listing, hashlib.sha256(name.encode()).hexdigest()[:8])


def _marked(listing: StudyListing, salt: str) -> str:
    return f"{salt}-{hashlib.sha256(f'{salt}{_within(listing)}'.encode()).hexdigest()[:16]}"


def _within(listing: StudyListing) -> str:
    """What tells a study from others of its source: its UID, or where its first file lies in it.

    The UID of image files is a checksum, and a study of which a voxel changes is still the same.
    """
    files = [file for entry in listing.series for file in entry.series.files]
    if not files or any(is_dicom_series(entry.series) for entry in listing.series):
        return listing.study_uid
    start = listing.source if listing.archive is None else listing.archive.folder
    return Path(os.path.relpath(min(files), start)).as_posix()
