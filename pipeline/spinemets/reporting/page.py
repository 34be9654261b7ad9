"""What self-contained pages share: templates, inlined files, a policy that admits only their own."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

__all__ = ["content_policy", "data_url", "new_environment", "packaged_text"]

_TEMPLATES = "templates"
# Letters of scripts that are written from right to left, and characters that turn what follows.
_LEFTWARD = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LEFTWARD_WORDS = re.compile(rf"[{_LEFTWARD}]+(?:[\W\d_]+[{_LEFTWARD}]+)*")


def new_environment() -> Environment:
    """Templates that escape every value and refuse absent ones."""
    return Environment(
        loader=PackageLoader("spinemets.reporting", _TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_in_its_place,
    )


def _in_its_place(value: object) -> object:
    """A text whose words from right to left move nothing around them; anything else as it is.

    Beside Hebrew or Arabic, numbers of the line would change places: a date with a patient's ID.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isascii():
        return value
    return _LEFTWARD_WORDS.sub("\u2068\\g<0>\u2069", _TURNING.sub("", value))


def packaged_text(folder: str, name: str) -> str:
    """A text file that comes with this package."""
    return resources.files("spinemets.reporting").joinpath(folder, name).read_text(encoding="utf-8")


def content_policy(style: str, scripts: Sequence[str]) -> str:
    """A content security policy that admits this page's own parts and no connection."""
    admitted = " ".join(_source_hash(script) for script in scripts)
    return (
        f"default-src 'none'; img-src data: blob:; font-src data:; connect-src data: blob:; "
        f"style-src {_source_hash(style)}; script-src {admitted}; worker-src blob:; "
        "form-action 'none'; base-uri 'none'"
    )


def data_url(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
