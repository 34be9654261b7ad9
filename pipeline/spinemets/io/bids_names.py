"""Names of a BIDS derivative dataset: where the maps made from a series belong in it.

A source that is itself named as BIDS asks keeps its entities. Any other (DICOM, plain names)
is a subject whose label is a keyed hash of the study, so that no name of a patient gets in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import PurePosixPath

from spinemets.io.file_names import image_stem
from spinemets.io.files import is_dicom_series
from spinemets.volume import Series

__all__ = ["bids_description", "bids_stem"]

_VERSION_OF_BIDS = "1.10.0"
_NAME = re.compile(
    r"(?P<subject>sub-[0-9A-Za-z]+)(?:_(?P<session>ses-[0-9A-Za-z]+))?(?P<rest>(?:_[a-z]+-[0-9A-Za-z+]+)*)_[0-9A-Za-z]+"
)
_DESCRIPTION_ENTITY = re.compile(r"_desc-[0-9A-Za-z+]+")


def bids_stem(series: Series, key: bytes) -> PurePosixPath:
    """Path below the dataset's root of what is made from a series, up to its last entities.

    Parameters
    ----------
    key
        Of the hash that is the label of a subject without one.

    Examples
    --------
    >>> from pathlib import Path
    >>> source = Path("sub-01/ses-2/anat/sub-01_ses-2_acq-sag_T2w.nii.gz")
    >>> str(bids_stem(Series("1.2", "1.2.3", source=source), b"key"))
    'sub-01/ses-2/anat/sub-01_ses-2_acq-sag'
    >>> str(bids_stem(Series("1.2", "1.2.3", source=Path("JANE_DOE.nii.gz")), b"key"))
    'sub-8fd3e425c8/anat/sub-8fd3e425c8'
    """
    name = _NAME.fullmatch(image_stem(series.source))
    if name is None or is_dicom_series(series):
        subject = f"sub-{hmac.new(key, series.study_uid.encode(), hashlib.sha256).hexdigest()[:10]}"
        return PurePosixPath(subject, "anat", subject)
    folders = [part for part in (name["subject"], name["session"]) if part]
    entities = "_".join(folders) + _DESCRIPTION_ENTITY.sub("", name["rest"])
    return PurePosixPath(*folders, "anat", entities)


def bids_description(version: str, model: str, model_version: str) -> str:
    """The text of ``dataset_description.json``; the same for every study of one model."""
    description = {
        "Name": "spinemets: vertebral levels, anatomy and lesions of spine MRI",
        "BIDSVersion": _VERSION_OF_BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "spinemets",
                "Version": version,
                "Description": f"model {model} {model_version}; research use only, not a medical device",
            }
        ],
    }
    return json.dumps(description, indent=2) + "\n"
