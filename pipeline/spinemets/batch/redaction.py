"""What is said of a study, free of what identifies a person: its files, its folders, its headers' words.

Names of studies are made in ``privacy``.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spinemets.anatomy import Compartment, SpineRegion, VertebralLevel
from spinemets.batch.planning import PlannedStudy, real_path
from spinemets.errors import SpinemetsError
from spinemets.io import SeriesListing, StudyListing, image_stem, is_dicom_series
from spinemets.io.deidentification import recognised_words
from spinemets.volume import Plane, Weighting

if TYPE_CHECKING:
    from spinemets.volume import Study

__all__ = ["redact", "redact_message", "redacted_logs", "without_names", "without_words"]

HIDDEN = "[hidden]"
# Shorter words are hidden only where they stand alone: "Li" is a name, and a part of many words.
_LONG = 5
# A file or folder that is called by these alone names nobody, and sentences need them.
_NOUNS = (
    "archive ct dicom file files folder header image images input label labels lesion lesions map mha"
    " missing mr mri nifti nrrd pixels results scan scans sequence sequences series slice slices spine"
    " stack studies study voxels"
)
# What follows a folder's path in a sentence: folders and a file in it, whose names may hold spaces where a
# further folder, or a suffix and a colon, tells that they go on.
_BELOW = r"(?:[/\\](?:[^:'\"\n]*[/\\])?(?:[^:'\"/\\\n]*\.\w+(?=:)|[^\s:'\"]*))?"
_OWN_WORDS = frozenset(
    word
    for text in (
        _NOUNS,
        *(
            member.value
            for kind in (Weighting, Plane, VertebralLevel, SpineRegion, Compartment)
            for member in kind
        ),
    )
    for word in re.split(r"[\W_]+", text.casefold())
)


def redact(text: str, words: Iterable[str]) -> str:
    """A text with every one of the words hidden, however it is written.

    >>> redact("/data/DOE_Jane_1/x.dcm: damaged", {"Doe", "Jane"})
    '/data/[hidden]_[hidden]_1/x.dcm: damaged'
    """
    anywhere = {word for word in words if len(word) >= _LONG}
    patterns = {word: re.escape(word) if word in anywhere else _alone(word) for word in words}
    return _hide(text, [patterns[word] for word in sorted(patterns, key=len, reverse=True)])


def redact_message(text: str, study: PlannedStudy) -> str:
    """A text without the study's paths, the names of its files and the words of its headers.

    A name that consists of the program's own words, as a folder called "ct", is hidden only where it
    is written as a name.
    """
    if study.hidden_source:
        paths = sorted({str(study.source), str(real_path(study.source))}, key=len, reverse=True)
        text = _hide(text, [re.escape(path) for path in _paths_in(text, study)])
        text = _hide(text, [f"{re.escape(path)}{_BELOW}" for path in paths])
        text = _hide(text, [rf"(?<=[/\\]){re.escape(name)}{_BELOW}" for name in _packed_folders(study)])
        folded = text.casefold()
        names = [name for name in _own_names(study) if name.casefold() in folded]
        names.sort(key=len, reverse=True)
        text = _hide(text, [_as_a_name(name) if _is_ordinary(name) else _alone(name) for name in names])
    return redact(text, study.private)


@contextmanager
def redacted_logs(study: PlannedStudy | None = None) -> Iterator[None]:
    """Let what spinemets logs meanwhile name no file, which is given to a log as a ``Path``.

    Parameters
    ----------
    study
        Of which nothing else that ``redact_message`` hides may be named either.
    """
    logger = logging.getLogger("spinemets")
    handlers, passes_on = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [_RedactingHandler(study, handlers, passes_on)], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, passes_on


class _RedactingHandler(logging.Handler):
    """Passes log records on as others would have got them, but for what must be hidden."""

    def __init__(self, study: PlannedStudy | None, handlers: Sequence[logging.Handler], passes_on: bool):
        super().__init__()
        self._study, self._handlers, self._passes_on = study, handlers, passes_on

    def emit(self, record: logging.LogRecord) -> None:
        shown = copy(record)
        if isinstance(record.args, tuple):
            shown.args = tuple(HIDDEN if isinstance(part, Path) else part for part in record.args)
        text = shown.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        shown.msg = text if self._study is None else redact_message(text, self._study)
        shown.args, shown.exc_info, shown.exc_text = (), None, None
        for handler in self._handlers:
            if shown.levelno >= handler.level:
                handler.handle(shown)
        if self._passes_on:
            logging.getLogger().callHandlers(shown)


def without_names(found: StudyListing, study: PlannedStudy) -> StudyListing:
    """The listing of a study whose descriptions name nobody.

    An image file's description is its name, so it is described by what was recognised of it. In
    others the words of the headers are hidden.
    """
    count: Counter[str] = Counter()

    def described(entry: SeriesListing) -> SeriesListing:
        description = redact(entry.series.description, study.private)
        if not is_dicom_series(entry.series):
            # Of what could not be read, no plane is known.
            words = recognised_words(entry) if entry.shape else entry.series.weighting.value
            count[words] += 1
            description = words if count[words] == 1 else f"{words} {count[words]}"
        reason = redact_message(entry.reason, study)
        return replace(entry, series=replace(entry.series, description=description), reason=reason)

    is_dicom = any(is_dicom_series(entry.series) for entry in found.series)
    return replace(
        found,
        description=redact(found.description, study.private) if is_dicom else "",
        series=tuple(map(described, found.series)),
    )


def without_words(images: Study, study: PlannedStudy) -> Study:
    """The study that was read, without what the sentences about it say of files and persons."""

    def shown(sentences: Iterable[str]) -> tuple[str, ...]:
        return tuple(redact_message(sentence, study) for sentence in sentences)

    volumes = tuple(
        replace(volume, series=replace(volume.series, cautions=shown(volume.series.cautions)))
        for volume in images.volumes
    )
    rejected = tuple((name, redact_message(reason, study)) for name, reason in images.rejected)
    return replace(images, volumes=volumes, rejected=rejected, cautions=shown(images.cautions))


def _alone(word: str) -> str:
    return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"


def _is_ordinary(name: str) -> bool:
    """Whether a name is made of nothing but words of the program's own sentences.

    >>> _is_ordinary("T2_sagittal"), _is_ordinary("T2_Jane")
    (True, False)
    """
    return set(re.split(r"[\W_]+", name.casefold())) <= _OWN_WORDS


def _as_a_name(word: str) -> str:
    """A word only where it is written as a file is named: before a colon or a suffix, or in quotes."""
    name = re.escape(word)
    return rf"(?:^|(?<=: )){name}(?=:)|(?<![^\W_]){name}(?=\.\w)|(?<=['\"]){name}(?=['\"])"


def _hide(text: str, patterns: Sequence[str]) -> str:
    return re.sub("|".join(patterns), HIDDEN, text, flags=re.IGNORECASE | re.MULTILINE) if patterns else text


def _own_names(study: PlannedStudy) -> set[str]:
    """The names of the study's own files, which may be those of a person."""
    names = {study.source.name, image_stem(study.source)}
    if not isinstance(study.found, SpinemetsError):
        for series in (entry.series for entry in study.found.series):
            own = {name for file in series.files for name in (file.name, image_stem(file))}
            # Many DICOM files are called "12" or "T2": no person, and a word of many sentences.
            names |= {name for name in own if len(name) >= _LONG} if is_dicom_series(series) else own
    return names - {""}


def _paths_in(text: str, study: PlannedStudy) -> list[str]:
    """The study's files and their folders that a text names in full, the longest first."""
    if isinstance(study.found, SpinemetsError):
        return []
    files = {file for entry in study.found.series for file in entry.series.files}
    paths = {path for file in files for path in (file, *file.parents) if study.source in path.parents}
    return sorted((str(path) for path in paths if str(path) in text), key=len, reverse=True)


def _packed_folders(study: PlannedStudy) -> list[str]:
    """The folders of the study's files within their archive, deepest first."""
    if isinstance(study.found, SpinemetsError) or study.found.archive is None:
        return []
    start = study.found.archive.folder
    files = [file for entry in study.found.series for file in entry.series.files]
    folders = {
        folder.relative_to(start).as_posix()
        for file in files
        for folder in file.parents[:-1]
        if start in folder.parents
    }
    return sorted(folders, key=len, reverse=True)
