"""Dates and times of a data set, moved together so that intervals stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset

__all__ = ["DATE_VRS", "shift_dates"]

DATE_VRS = frozenset({"DA", "TM", "DT"})
_DATE = re.compile(r"((?:1[89]|2\d)\d{2})[.]?(\d{2})[.]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATE_TIME = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?([+-]\d{4})?")
_NOON = "12"
_NO_DAY = datetime(2000, 1, 1)


def shift_dates(dataset: Dataset, shift: timedelta) -> None:
    """Move all dates and times of one level of a data set; what is malformed becomes empty.

    A date and the time that belongs to it (``StudyDate`` and ``StudyTime``) move as one instant.
    A date by itself moves by the days, a time by itself round the clock.
    """
    paired: set[str] = set()
    for element in [element for element in dataset if element.VR == "DA"]:
        keyword = element.keyword
        partner = keyword.replace("Date", "Time") if keyword else ""
        dates = _texts(element.value)
        times = _texts(dataset.get(partner)) if partner != keyword and partner in dataset else []
        together = len(times) == len(dates)
        clock: Sequence[str] = times if together else [_NOON] * len(dates)
        moved = [_moved(date, time, shift) for date, time in zip(dates, clock, strict=True)]
        element.value = _value([date for date, _ in moved])
        if together and dates:
            dataset[partner].value = _value([time for _, time in moved])
            paired.add(partner)
    for element in dataset:
        if element.VR == "TM" and element.keyword not in paired:
            element.value = _value([_moved_time(_NO_DAY, text, shift)[1] for text in _texts(element.value)])
        elif element.VR == "DT":
            element.value = _value([_moved_instant(text, shift) for text in _texts(element.value)])


def _texts(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [str(value)] if isinstance(value, str) else [str(one) for one in value]


def _value(texts: list[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else texts


def _moved(date: str, time: str, shift: timedelta) -> tuple[str, str]:
    """A date and its time later or earlier; a time that is none leaves the date to move by days."""
    day = _day(date)
    if day is None:
        return "", _moved_time(_NO_DAY, time, shift)[1]
    instant, text = _moved_time(day, time, shift)
    if instant is None:
        instant = day + timedelta(days=shift.days)
    return f"{instant:%Y%m%d}", text


def _day(text: str) -> datetime | None:
    match = _DATE.fullmatch(text.strip())
    try:
        return datetime(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _moved_time(day: datetime, text: str, shift: timedelta) -> tuple[datetime | None, str]:
    """The moved instant, and its time of day as precisely as it was given."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None, ""
    hours, minutes, seconds, fraction = match.groups()
    try:
        instant = shift + day.replace(
            hour=int(hours),
            minute=int(minutes or 0),
            second=min(59, int(seconds or 0)),
            microsecond=int((fraction or "").ljust(6, "0")),
        )
    except (ValueError, OverflowError):
        return None, ""
    whole = f"{instant:%H%M%S}"[: 2 * sum(part is not None for part in (hours, minutes, seconds))]
    return instant, whole + (f".{f'{instant:%f}'[: len(fraction)]}" if fraction else "")


def _moved_instant(text: str, shift: timedelta) -> str:
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        return ""
    date, time = _moved("".join(match.groups()[:3]), match[4] or _NOON, shift)
    return date + (time if match[4] else "") + (match[5] or "") if date else ""
