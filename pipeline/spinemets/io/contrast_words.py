"""What a description says of contrast agent: with, without, or nothing.

A "C" is contrast only where it cannot be the cervical spine: with a plus ("+C", "C+"), written
onto the T1 ("T1c"), or beside a T1's fat suppression ("T1 FS C"). "T1 C" alone, a name for either,
says nothing: other descriptions and ContrastBolusAgent then tell, and a native T1 of the neck is not
taken for an enhanced one. A plus joins regions in "L+C", "L + C" and "C + T", but not in "L +C" or
beside a word ("+ C LUMBAR"). A text that names both ("W/WO", "pre/post", "mit und ohne KM") is the name of
an examination and says nothing of one series.
"""

from __future__ import annotations

import re

from spinemets.io.plain_words import WORD_END, WORD_START, any_word

__all__ = ["stated_contrast"]

_SPINE = r"(?:spine|sp|wirbel\w*|ws|col\w*|rachis|cerv\w*|neck|cord)"
_NOT_SPINE = rf"(?! ?{_SPINE}{WORD_END})"
_NOT_LETTER = rf"(?! ?(?:[+&]|and|und|et|e|y)? ?(?:{_SPINE}|th?|tl|ls?){WORD_END})"
_NOT_REGION = rf"{_NOT_LETTER}(?! ?(?:[+&]|and|und|et|e|y)? ?(?:thor\w*|lumb\w*){WORD_END})"
_NOT_BEHIND_LETTER = r"(?<!\bt)(?<!\bl)"
_NOT_BEHIND_SPACED_LETTER = r"(?<!\bt )(?<!\bl )"
_AGENT = (
    r"(?:gd|gad(?:[ao]\w*)?|km|ce|contrast\w*|kontrast\w*|inj\w*|mdc|dotarem|prohance|magnevist|multihance"
    r"|clariscan|omniscan)"
)
_CONTRAST = any_word(
    _AGENT, rf"post ?{_AGENT}", r"post(?! ?op)", r"t1w? ?(?:fs ?)?(?:ce|gd|km)",
    rf"t1w?c{_NOT_SPINE}", rf"t1w? ?fs ?c{_NOT_REGION}", r"t1w? c ?fs",
)  # fmt: skip
_PLUS_CONTRAST = re.compile(
    rf"\+ ?(?:{_AGENT}|iv|mc){WORD_END}|{_NOT_BEHIND_LETTER}\+c{WORD_END}"
    rf"|{_NOT_BEHIND_LETTER}{_NOT_BEHIND_SPACED_LETTER}\+ c{_NOT_LETTER}{WORD_END}"
    rf"|{WORD_START}c(?:\+| \+{_NOT_LETTER}){WORD_END}"
)
_WITHOUT = r"(?:without|wo|ohne|sans|sin|senza)"
_NO_CONTRAST = any_word(
    rf"(?:no|non|pre|vor|avant|antes|{_WITHOUT}) ?(?:de )?(?:l )?(?:{_AGENT}|iv|mc|c)", rf"{_WITHOUT}$",
    r"non ?con", r"pre(?! ?op)", r"nativ\w*", "unenhanced", "plain",
)  # fmt: skip
_WITH, _AND = r"(?:w|with|mit|avec|con)", r" ?(?:and|und|et|e|y|&|\+)? ?"
_BOTH = any_word(
    _WITH + _AND + _WITHOUT, _WITHOUT + _AND + _WITH,
    rf"pre{_AND}post", rf"post{_AND}pre", rf"vor{_AND}nach", rf"avant{_AND}apres", rf"before{_AND}after",
)  # fmt: skip


def stated_contrast(words: str) -> bool | None:
    """Whether a text says that contrast agent was given; None where it says nothing, or both.

    Parameters
    ----------
    words
        As ``plain_words`` gives them.

    Examples
    --------
    >>> stated_contrast("sag t1 post gad"), stated_contrast("t1 sag ohne km")
    (True, False)
    >>> stated_contrast("sag t1 c spine"), stated_contrast("l spine with and without contrast")
    (None, None)
    """
    if _BOTH.search(words):
        return None
    rest, without = _NO_CONTRAST.subn(" ", words)
    given = bool(_CONTRAST.search(rest) or _PLUS_CONTRAST.search(rest))
    return given if given != bool(without) else None
