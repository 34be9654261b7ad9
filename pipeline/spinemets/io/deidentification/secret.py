"""The secret key from which all pseudonyms follow. Whoever has it can tell whose they are."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from spinemets.errors import ConfigError

__all__ = ["KEY_VARIABLE", "load_secret"]

KEY_VARIABLE = "SPINEMETS_DEID_KEY"
_SHORTEST = 32


def load_secret(path: Path | None = None, *, out: Path | None = None) -> bytes:
    """The key from a file, else from ``SPINEMETS_DEID_KEY``, else from the user's own key file.

    A file that is not there is made, readable by its owner only.

    Parameters
    ----------
    path
        The key's file; None for the variable or ``~/.config/spinemets/deidentification.key``.
    out
        The folder of the results, in which the key may not lie.

    Raises
    ------
    ConfigError
        The key is too short, others may read its file, it lies among the results, or its file
        can neither be read nor made.
    """
    text = os.environ.get(KEY_VARIABLE, "")
    if path is None and text:
        return _checked(text, KEY_VARIABLE)
    path = (path or _default_path()).expanduser().resolve()
    if out is not None and path.is_relative_to(out.resolve()):
        raise ConfigError(f"{path}: the key lies among the results, which are to be passed on; move it")
    try:
        _make(path)
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{path}: others may read the key; chmod 600 it")
        return _checked(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the key can neither be read nor made ({error})") from error


def _default_path() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder, "spinemets", "deidentification.key")


def _make(path: Path) -> None:
    """Make a new key where there is none; two runs that do so at once get the same one."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        except OSError:
            # Not every file system has links.
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _checked(text: str, place: str) -> bytes:
    key = text.strip().encode()
    if len(key) < _SHORTEST:
        raise ConfigError(f"{place}: the key has {len(key)} characters; at least {_SHORTEST} are needed")
    return key
