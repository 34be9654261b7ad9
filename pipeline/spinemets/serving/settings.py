"""The settings of a server: one frozen tree, read from YAML, with every default in one place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from spinemets.config import DetectionConfig, Format, load_config, read_settings
from spinemets.errors import ConfigError

__all__ = [
    "AnalysisSettings",
    "DimseNode",
    "LimitSettings",
    "Node",
    "PullSettings",
    "ReceiveSettings",
    "SendSettings",
    "ServeSettings",
    "Tls",
    "WebNode",
    "load_settings",
]


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path starts at the folder of the file that names it."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


_Path = Annotated[Path, AfterValidator(_beside_the_file)]
_Port = Annotated[int, Field(ge=1, le=65535)]
# PS3.5 6.2: up to 16 characters without backslash and control characters, no leading or trailing space.
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?$")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tls(_Settings):
    """Files in PEM format for an encrypted connection."""

    authority: _Path | None = Field(
        default=None,
        description="who must have signed the other side's certificate; a server that has one asks its "
        "callers for certificates, a client that has none trusts the system's authorities",
    )
    certificate: _Path | None = Field(default=None, description="our own certificate, with its chain")
    key: _Path | None = Field(default=None, description="its private key, without a pass phrase")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class DimseNode(_Settings):
    """A node that is spoken to by C-STORE, C-FIND and C-MOVE."""

    kind: Literal["dimse"]
    ae_title: AeTitle
    host: str = Field(min_length=1)
    port: _Port
    tls: Tls | None = None


class WebNode(_Settings):
    """A node that is spoken to by DICOMweb."""

    kind: Literal["dicomweb"]
    url: str = Field(pattern=r"^https?://[^/@\s]+(/\S*)?$", description="where /studies is to be found")
    user: str | None = Field(default=None, min_length=1)
    password_variable: str | None = Field(
        default=None, description="environment variable that holds the user's password"
    )
    token_variable: str | None = Field(
        default=None, description="environment variable that holds a bearer token"
    )
    tls: Tls | None = None

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> Self:
        if (self.user is None) != (self.password_variable is None):
            raise ValueError("user and password_variable belong together")
        if self.user is not None and self.token_variable is not None:
            raise ValueError("either a user or a token")
        if self.tls is not None and not self.url.startswith("https:"):
            raise ValueError("tls needs a url that begins with https:")
        return self

    def secret(self, variable: str) -> str:
        """The value of an environment variable.

        Raises
        ------
        ConfigError
            It is not set.
        """
        value = os.environ.get(variable, "")
        if not value:
            raise ConfigError(f"the environment variable {variable} is not set; it holds a node's secret")
        return value


Node = Annotated[DimseNode | WebNode, Field(discriminator="kind")]


class ReceiveSettings(_Settings):
    """How others reach this node."""

    ae_title: AeTitle = "SPINEMETS"
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: _Port = 11112
    # An empty list would let everybody in (pynetdicom reads it as no check).
    callers: Annotated[tuple[AeTitle, ...], Field(min_length=1)] | Literal["any"] = Field(
        description="AE titles that may connect, or the word any"
    )
    associations: int = Field(default=10, ge=1, description="connections at the same time, at most")
    tls: Tls | None = None

    @model_validator(mode="after")
    def _can_identify_itself(self) -> Self:
        if self.tls is not None and self.tls.certificate is None:
            raise ValueError("tls needs a certificate and a key to listen with")
        return self


class PullSettings(_Settings):
    """A node that is asked for new studies from time to time."""

    node: str
    every_s: float = Field(default=300.0, ge=1)
    days: int = Field(default=2, ge=1, description="studies of today and this many days in all")
    description: str = Field(default="", description="pattern for the study's description, as in *SPINE*")


class AnalysisSettings(_Settings):
    """How a study is analysed, and when it is complete."""

    idle_s: float = Field(
        default=60.0, gt=0, description="a study is complete when no image has come for so long"
    )
    config: _Path | None = Field(default=None, description="detection settings, as in configs/detect.yaml")
    formats: tuple[Format, ...] = Field(
        default=("json", "html", "dicom-seg", "dicom-sr", "dicom-pdf", "dicom-sc"),
        description="what is written; the dicom- formats are what is sent",
    )
    device: str | None = Field(default=None, pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    model: str | None = None
    trust_model: str | None = None
    timeout_s: float = Field(default=3600.0, gt=0, description="a study that takes longer is given up")
    attempts: int = Field(
        default=3, ge=1, description="how often a study is begun whose analysis dies or runs out of room"
    )


class SendSettings(_Settings):
    """How results are sent, and how often it is tried."""

    to: tuple[str, ...] = Field(default=(), description="names of nodes")
    attempts: int = Field(default=20, ge=1)
    first_pause_s: float = Field(default=10.0, gt=0, description="after the first failure; then doubled")
    longest_pause_s: float = Field(default=3600.0, gt=0)


class LimitSettings(_Settings):
    """What may be taken up before new studies are refused."""

    studies: int = Field(default=200, ge=1, description="studies that wait to be analysed, at most")
    free_gib: float = Field(default=5.0, ge=0, description="room on the disk that is left alone")
    object_gib: float = Field(
        default=2.0, gt=0, description="objects and answers of other nodes that are larger are not taken"
    )
    keep_days: float | None = Field(
        default=None, gt=0, description="finished studies are removed after so long; null keeps them"
    )
    ending_s: float = Field(
        default=20.0, ge=0, description="on a request to stop, what is under way may take so long to end"
    )


class ServeSettings(_Settings):
    """All settings of a server."""

    folder: _Path = Field(description="for the queue, what is received and the results")
    receive: ReceiveSettings
    nodes: dict[str, Node] = {}
    pull: tuple[PullSettings, ...] = ()
    analysis: AnalysisSettings = AnalysisSettings()
    send: SendSettings = SendSettings()
    limits: LimitSettings = LimitSettings()

    @model_validator(mode="after")
    def _names_known_nodes(self) -> Self:
        unknown = {*self.send.to, *(source.node for source in self.pull)} - set(self.nodes)
        if unknown:
            raise ValueError(f"nodes has no {', '.join(sorted(unknown))}")
        if len(set(self.send.to)) < len(self.send.to):
            raise ValueError("send.to names a node twice")
        if self.send.to and not any(name.startswith("dicom-") for name in self.analysis.formats):
            raise ValueError("analysis.formats has nothing to send: name some of the dicom- formats")
        days = self.limits.keep_days
        if days is not None and any(source.days > days for source in self.pull):
            raise ValueError("limits.keep_days is less than pull.days: studies would be pulled again")
        return self

    def detection(self) -> DetectionConfig:
        """The settings of every detection.

        Raises
        ------
        ConfigError
            The file that they are in is not sound, or asks for de-identification.
        """
        path = self.analysis.config
        config = DetectionConfig() if path is None else load_config(path)
        if config.deidentification.enabled:
            raise ConfigError(
                f"{path}: deidentification.enabled: a server sends results to where the studies are, and "
                "de-identified ones would be filed there as another study of another patient; use "
                "spinemets detect --deidentify on files"
            )
        device = self.analysis.device or config.segmentation.device
        return config.model_copy(
            update={
                "segmentation": config.segmentation.model_copy(update={"device": device}),
                "report": config.report.model_copy(update={"formats": self.analysis.formats}),
            }
        )


def load_settings(path: Path) -> ServeSettings:
    """Read a server's settings from a YAML file; relative paths in it start at its folder.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, or holds an unknown key or a bad value.
    """
    return read_settings(path, ServeSettings, {"folder": path.resolve().parent})
