"""Studies that lie in a .zip: what is kept of their files, and their files when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from spinemets.errors import OutputError
from spinemets.io.identity import private_words
from spinemets.io.listing import PackedFiles, SeriesListing, StudyListing
from spinemets.io.sources import unpack
from spinemets.io.temporary import temporary_folder

__all__ = ["packed", "unpack_study", "unpacked"]

# Their voxels lie in files that the listing does not name.
_DETACHED_HEADERS = (".mhd", ".nhdr")


def packed(listing: StudyListing, archive: Path, folder: Path) -> StudyListing:
    """A study of an archive, as it is known once the folder with its files is removed.

    Parameters
    ----------
    folder
        Where the archive is unpacked, still.
    """
    files = {file for entry in listing.series for file in entry.series.files}
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    words = private_words(listing)

    def lasting(uid: str) -> str:
        """What stands for an absent identifier names the folder, which has another name each time."""
        return uid.replace(str(folder), str(archive.resolve()))

    series = tuple(
        replace(
            entry,
            series=replace(
                entry.series,
                study_uid=lasting(entry.series.study_uid),
                series_uid=lasting(entry.series.series_uid),
            ),
        )
        for entry in listing.series
    )
    return replace(
        listing,
        study_uid=lasting(listing.study_uid),
        series=series,
        # A file within an archive is known to the user by the archive's name.
        source=archive,
        archive=PackedFiles(archive, folder, sizes, words),
    )


@contextmanager
def unpacked(listing: StudyListing) -> Iterator[StudyListing]:
    """The study with its files at hand: of an archive, for as long as the block lasts.

    Raises
    ------
    UnreadableFileError
        The archive has changed since it was looked through.
    OutputError
        There is no room to unpack it.
    """
    if listing.archive is None:
        yield listing
        return
    with temporary_folder() as folder:
        yield unpack_study(listing, folder)


def unpack_study(listing: StudyListing, folder: Path) -> StudyListing:
    """The study with its files, and no others, unpacked into a folder; it is made where it is missing.

    Raises
    ------
    UnreadableFileError
        The archive has changed since it was looked through.
    OutputError
        There is no room to unpack it.
    """
    archive = listing.archive
    if archive is None:
        return listing
    files = {file for entry in listing.series for file in entry.series.files}
    whole = any(file.suffix.lower() in _DETACHED_HEADERS for file in files)
    names = {PurePosixPath(file.relative_to(archive.folder).as_posix()) for file in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    unpack(archive.path, folder, None if whole else names)
    return replace(
        listing,
        series=tuple(_moved(entry, archive.folder, folder) for entry in listing.series),
        archive=None,
    )


def _moved(entry: SeriesListing, old: Path, new: Path) -> SeriesListing:
    """The same series with its files in another folder."""

    def there(path: Path) -> Path:
        return new / path.relative_to(old)

    series = replace(
        entry.series,
        source=there(entry.series.source),
        files=tuple(there(path) for path in entry.series.files),
    )
    stack = entry.stack
    if stack is not None:
        slices = tuple(one if one is None else replace(one, path=there(one.path)) for one in stack.slices)
        stack = replace(stack, slices=slices)
    return replace(entry, series=series, stack=stack)
