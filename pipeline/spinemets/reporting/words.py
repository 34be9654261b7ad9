"""Numbers as a reader wants them, and the sentences of the summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spinemets.anatomy import VertebralLevel
from spinemets.reporting.schema import FindingRecord, LevelRecord

__all__ = [
    "join_words",
    "level_names",
    "level_span",
    "percent",
    "summary_sentences",
    "volume_text",
]


def percent(probability: float) -> str:
    """A probability for reading; never claims 0 % or 100 % unless it is exactly that.

    >>> percent(0.934), percent(0.9996), percent(0.002), percent(1.0)
    ('93 %', '> 99 %', '< 1 %', '100 %')
    """
    if 0.995 <= probability < 1:
        return "> 99 %"
    if 0 < probability < 0.005:
        return "< 1 %"
    return f"{100 * probability:.0f} %"


def volume_text(volume_mm3: float) -> str:
    """A volume in mL; in mm³ where two decimals of a mL would say too little.

    >>> volume_text(3120.0), volume_text(84.0)
    ('3.12 mL', '84 mm³')
    """
    return f"{volume_mm3 / 1000:.2f} mL" if volume_mm3 >= 100 else f"{volume_mm3:.0f} mm³"


def join_words(words: Sequence[str]) -> str:
    """A list as it is spoken.

    >>> join_words(["L1"]), join_words(["T12", "L1", "L2"])
    ('L1', 'T12, L1 and L2')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def level_span(levels: Sequence[VertebralLevel]) -> str:
    """The first and last of some levels, head to foot.

    >>> level_span([VertebralLevel.T10, VertebralLevel.L1, VertebralLevel.S1])
    'T10 to S1'
    """
    if not levels:
        return "none recognised"
    first, last = min(levels), max(levels)
    return first.value if first is last else f"{first.value} to {last.value}"


def level_names(finding: FindingRecord) -> str:
    """The levels of a finding, or that there are none."""
    return join_words([level.value for level in finding.levels]) or "no level"


def summary_sentences(findings: Sequence[FindingRecord], levels: Sequence[LevelRecord]) -> tuple[str, ...]:
    """What was found, in the order in which a radiologist would say it."""
    return tuple(_sentences(findings, levels))


def _sentences(findings: Sequence[FindingRecord], levels: Sequence[LevelRecord]) -> Iterator[str]:
    visible = [record.level for record in levels]
    seen = f"in the visible spine, {level_span(visible)}" if visible else "in these images"
    if not findings and not levels:
        yield "No vertebra was recognised in these images, so that no lesion was found says nothing."
    elif not findings:
        yield f"No lesion was found {seen}."
    elif len(findings) == 1:
        yield f"One lesion was found {seen}: {_place(findings[0])}, {_size(findings[0])}."
    else:
        total = volume_text(sum(finding.volume_mm3 for finding in findings))
        yield f"{len(findings)} lesions were found {seen}, {total} in total: {_counts(findings)}."
        largest = max(findings, key=lambda finding: finding.volume_mm3)
        yield f"The largest is lesion {largest.lesion}: {_place(largest)}, {_size(largest)}."
    review = [str(finding.lesion) for finding in findings if finding.needs_review]
    if review:
        noun, verb = ("Lesion", "needs") if len(review) == 1 else ("Lesions", "need")
        yield f"{noun} {join_words(review)} {verb} a reader's decision."
    uncertain = [record.level.value for record in levels if record.uncertain]
    if uncertain and len(uncertain) == len(levels):
        yield "The names of all visible levels are uncertain."
    elif uncertain:
        yield f"The level {'name' if len(uncertain) == 1 else 'names'} {join_words(uncertain)} " + (
            "is uncertain." if len(uncertain) == 1 else "are uncertain."
        )


def _counts(findings: Sequence[FindingRecord]) -> str:
    compartments = [finding.compartment for finding in findings]
    return join_words([f"{compartments.count(c)} {c.value}" for c in dict.fromkeys(compartments)])


def _place(finding: FindingRecord) -> str:
    if not finding.levels:
        return f"{finding.compartment.value}, with no recognised vertebra near it"
    return f"{finding.compartment.value} at {level_names(finding)}"


def _size(finding: FindingRecord) -> str:
    return f"{volume_text(finding.volume_mm3)}, longest diameter {finding.longest_diameter_mm:.0f} mm"
