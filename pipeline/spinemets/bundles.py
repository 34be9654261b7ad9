"""Model bundles: where they are, whether they can be trusted, and what they say of themselves.

A bundle is a folder in the layout of MONAI's model zoo. Two of its files are read here:
``configs/metadata.json``, as data, and the checksum of ``models/model.safetensors``. The
other configurations hold expressions that MONAI evaluates; this module never opens them
except to compute their checksums. It knows nothing of torch.

A bundle is trusted when its files have the checksums that ``registry.json`` records, or
when the caller names the checksum of the two files that are read (``reading_checksum``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spinemets.errors import ModelIncompatibleError, ModelNotFoundError, ModelNotTrustedError
from spinemets.volume import Weighting

__all__ = [
    "DEFAULT_BUNDLE",
    "Bundle",
    "BundleMetadata",
    "NetworkFacts",
    "SpacingMm",
    "bundles_folder",
    "file_checksums",
    "load_bundle",
    "reading_checksum",
    "register_bundle",
]

DEFAULT_BUNDLE = "spine_metastasis_mri"

_METADATA = Path("configs/metadata.json")
_WEIGHTS = Path("models/model.safetensors")
_REGISTRY = "registry.json"

_Footprint = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]


class SpacingMm(BaseModel):
    """The voxel spacing that a network was trained on, in mm.

    In plane, images are resampled to ``in_plane``. Slices stay as acquired, unless they are
    closer than ``slice_min``: then they are averaged to about ``slice_target``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_plane: float = Field(gt=0)
    slice_min: float = Field(gt=0)
    slice_target: float = Field(gt=0)


class NetworkFacts(BaseModel):
    """What inference must know of a network: the key ``spinemets`` of a bundle's metadata.

    Attributes
    ----------
    format
        Version of this description.
    network
        ``type`` and the keyword arguments that the network is built with.
    channels
        Names of the output channels, in order.
    weightings
        Values of ``Weighting`` that the network was told in training.
    footprint_bytes_per_voxel
        Memory of one pass on a CPU at its peak, the weights aside, by the network's name and the
        precision: measured once, as ``spinemets.training.footprint`` says. Bundles may lack it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    network: dict[str, object]
    spacing_mm: SpacingMm
    channels: tuple[str, ...] = Field(min_length=1)
    weightings: tuple[Weighting, ...] = Field(min_length=1)
    footprint_bytes_per_voxel: dict[str, dict[str, _Footprint]] = Field(default_factory=dict)

    @field_validator("network")
    @classmethod
    def _has_a_type(cls, network: dict[str, object]) -> dict[str, object]:
        if not isinstance(network.get("type"), str):
            raise ValueError("needs a 'type' that names the architecture")
        return network


class BundleMetadata(BaseModel):
    """The part of a MONAI bundle's ``metadata.json`` that is used here; other keys are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str = Field(pattern=r"^\d+\.\d+\.\d+")
    monai_version: str
    pytorch_version: str
    task: str
    description: str
    network_data_format: dict[str, object]
    spinemets: NetworkFacts


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are trusted and whose metadata are sound.

    Attributes
    ----------
    path
        The bundle's folder.
    weights
        The safetensors file inside it.
    sha256
        Of the weights.
    """

    name: str
    version: str
    path: Path
    metadata: BundleMetadata
    weights: Path
    sha256: str

    @property
    def facts(self) -> NetworkFacts:
        """What inference must know of the network."""
        return self.metadata.spinemets


def load_bundle(name_or_path: str | Path | None = None, trusted_checksum: str | None = None) -> Bundle:
    """Find a bundle, check that it is what it claims to be, and read its metadata.

    Parameters
    ----------
    name_or_path
        The name of a bundle that comes with spinemets, or a bundle's folder; None for
        the default bundle.
    trusted_checksum
        ``reading_checksum`` of the bundle, from a source the caller trusts; it then counts whatever
        the registry says. None leaves the word to the registry.

    Raises
    ------
    ModelNotFoundError
        There is no such bundle, or it has no metadata or no weights.
    ModelNotTrustedError
        Its files are not those of ``trusted_checksum``, or without that, not those of the registry.
    ModelIncompatibleError
        Its metadata do not describe a network that this version can run.
    """
    path = _find(DEFAULT_BUNDLE if name_or_path is None else name_or_path)
    _check_trust(path, trusted_checksum)
    metadata = _read_metadata(path / _METADATA)
    weights = path / _WEIGHTS
    return Bundle(path.name, metadata.version, path, metadata, weights, _sha256(weights))


def bundles_folder() -> Path:
    """The folder of the bundles that come with spinemets, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "bundled_models"
    return installed if installed.is_dir() else package.parents[1] / "models"


def file_checksums(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle by its POSIX path inside it; hidden files are left out."""
    files = sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file())
    return {
        file.as_posix(): _sha256(bundle / file)
        for file in files
        if not any(part.startswith(".") or part == "__pycache__" for part in file.parts)
    }


def reading_checksum(bundle: Path) -> str:
    """SHA-256 over the two files of a bundle that spinemets reads.

    It is what ``sha256sum configs/metadata.json models/model.safetensors | sha256sum`` prints
    in the bundle's folder.
    """
    lines = "".join(f"{_sha256(bundle / file)}  {file.as_posix()}\n" for file in (_METADATA, _WEIGHTS))
    return hashlib.sha256(lines.encode()).hexdigest()


def register_bundle(bundle: Path) -> Path:
    """Record the checksums of a bundle's files in the ``registry.json`` beside it; return that file.

    Raises
    ------
    ModelNotFoundError, ModelIncompatibleError
        The folder is not a bundle that spinemets can run.
    """
    bundle = _find(bundle)
    metadata = _read_metadata(bundle / _METADATA)
    registry = bundle.parent / _REGISTRY
    bundles = dict(_read_registry(registry))
    bundles[bundle.name] = _RegistryEntry(version=metadata.version, files=file_checksums(bundle))
    content = _Registry(format=1, bundles=dict(sorted(bundles.items())))
    registry.write_text(json.dumps(content.model_dump(), indent=2) + "\n", encoding="utf-8")
    return registry


class _RegistryEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    files: dict[str, str]


class _Registry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    bundles: dict[str, _RegistryEntry]


def _find(name_or_path: str | Path) -> Path:
    """The folder of a bundle; a plain name means one that comes with spinemets, if there is one."""
    shipped = bundles_folder() / name_or_path
    is_name = isinstance(name_or_path, str) and Path(name_or_path).name == name_or_path
    path = shipped if is_name and shipped.is_dir() else Path(name_or_path)
    path = path.resolve()
    if not path.is_dir():
        known = ", ".join(sorted(_read_registry(bundles_folder() / _REGISTRY))) or "none"
        raise ModelNotFoundError(
            f"there is no model bundle {str(name_or_path)!r}; "
            f"pass a bundle's folder or the name of one that comes with spinemets ({known})"
        )
    for file in (_METADATA, _WEIGHTS):
        if not (path / file).is_file():
            raise ModelNotFoundError(
                f"the model bundle {path} has no {file.as_posix()}; "
                "pass the folder that holds configs/ and models/, with the weights in safetensors format"
            )
    return path


def _check_trust(path: Path, trusted_checksum: str | None) -> None:
    if trusted_checksum is not None:
        checksum = reading_checksum(path)
        if trusted_checksum.lower() == checksum:
            return
        raise ModelNotTrustedError(
            f"the model bundle {path} has the checksum {checksum}, not the trusted {trusted_checksum}; "
            "do not use it before its source has explained the difference"
        )
    entry = _read_registry(bundles_folder() / _REGISTRY).get(path.name)
    problems = _differences(path, entry.files) if entry else []
    if entry and not problems:
        return
    checksum = reading_checksum(path)
    found = f"differs from the registered one ({', '.join(problems)})" if entry else "is not registered"
    raise ModelNotTrustedError(
        f"the model bundle {path} {found}; if its author publishes the checksum {checksum}, "
        f"or you trained it yourself, pass --trust-model {checksum}"
    )


def _differences(path: Path, expected: Mapping[str, str]) -> list[str]:
    problems = []
    for name, checksum in expected.items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif _sha256(file) != checksum:
            problems.append(f"{name} has changed")
    return problems


def _read_registry(path: Path) -> Mapping[str, _RegistryEntry]:
    if not path.is_file():
        return {}
    try:
        return _Registry.model_validate_json(path.read_text(encoding="utf-8")).bundles
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelNotTrustedError(
            f"{path} is not a registry of model bundles; reinstall spinemets or restore the file"
        ) from error


def _read_metadata(path: Path) -> BundleMetadata:
    try:
        return BundleMetadata.model_validate_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelIncompatibleError(
            f"{path} is not UTF-8 text; use the bundle as it was published"
        ) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ModelIncompatibleError(
            f"{path} does not describe a network that this version can run ({problems}); "
            "use a bundle made for it, or the version of spinemets that the bundle was made for"
        ) from error


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFoundError(
            f"{file} cannot be read ({error.strerror}); check its permissions"
        ) from error
