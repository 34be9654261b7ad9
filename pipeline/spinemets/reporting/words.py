"""Numbers as a reader wants them, and the sentences of the summary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, groupby

from spinemets.anatomy import VertebralLevel
from spinemets.findings import LesionFinding, Side
from spinemets.reporting.schema import FindingRecord, LevelRecord

__all__ = [
    "DOUBTFUL_BELOW",
    "finding_label",
    "is_doubtful",
    "join_words",
    "length_text",
    "lesion_count",
    "level_name",
    "level_names",
    "level_span",
    "number_runs",
    "percent",
    "place_text",
    "review_text",
    "rounded_probability",
    "rounded_size",
    "slices_text",
    "summary_sentences",
    "uncertain_levels",
    "volume_text",
]

DOUBTFUL_BELOW = 0.5
"""A lesion less sure than this is more likely none."""

_ROUNDING = 1e-9

Levels = Collection[VertebralLevel]


def rounded_probability(probability: float) -> float:
    """A probability in four digits; 0 or 1 only where it is exactly that.

    >>> rounded_probability(0.93412), rounded_probability(0.99999), rounded_probability(1.0)
    (0.9341, 0.9999, 1.0)
    """
    rounded = round(float(probability), 4)
    # What a sum of floats lacks to 1 is no doubt.
    certain = min(probability, 1 - probability) < _ROUNDING
    return rounded if certain else min(max(rounded, 0.0001), 0.9999)


def rounded_size(size: float) -> float:
    """A length in mm or a volume in mm³, in three decimals."""
    return round(float(size), 3)


def percent(probability: float) -> str:
    """A probability for reading; never claims 0 % or 100 % unless it is exactly that.

    >>> percent(0.934), percent(0.9996), percent(0.002), percent(1.0)
    ('93 %', '> 99 %', '< 1 %', '100 %')
    """
    probability = rounded_probability(probability)
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
    volume_mm3 = rounded_size(volume_mm3)
    return f"{volume_mm3 / 1000:.2f} mL" if volume_mm3 >= 100 else f"{volume_mm3:.0f} mm³"


def length_text(length_mm: float) -> str:
    """A length in whole millimetres, as of the length that the report gives.

    >>> length_text(17.4998), length_text(16.5)
    ('18 mm', '16 mm')
    """
    return f"{rounded_size(length_mm):.0f} mm"


def join_words(words: Sequence[str]) -> str:
    """A list as it is spoken.

    >>> join_words(["L1"]), join_words(["T12", "L1", "L2"])
    ('L1', 'T12, L1 and L2')
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def number_runs(numbers: Sequence[int]) -> list[str]:
    """Ascending numbers, three or more in a row as a run.

    >>> number_runs([1, 2, 4, 5, 6, 9])
    ['1', '2', '4 to 6', '9']
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run] for run in runs]
    return list(chain.from_iterable(words))


def uncertain_levels(levels: Sequence[LevelRecord]) -> frozenset[VertebralLevel]:
    """The levels whose names are uncertain."""
    return frozenset(record.level for record in levels if record.uncertain)


def level_name(level: VertebralLevel, uncertain: Levels) -> str:
    """A level's name, with a question mark where it is one of the uncertain ones.

    The sacrum is labelled as one, which is named S1 in files: a lesion there may lie in S3.

    >>> level_name(VertebralLevel.L2, {VertebralLevel.L2}), level_name(VertebralLevel.S1, ())
    ('L2?', 'sacrum')
    """
    name = "sacrum" if level is VertebralLevel.S1 else level.value
    return f"{name}?" if level in uncertain else name


def finding_label(finding: LesionFinding) -> str:
    """A lesion's name in a viewer of label maps: "lesion 2, T11, extradural"."""
    level = level_name(finding.main_level, ()) if finding.main_level else "no level"
    return f"lesion {finding.lesion.number}, {level}, {finding.compartment.value}"


def level_span(levels: Sequence[VertebralLevel], uncertain: Levels = ()) -> str:
    """The first and last of some levels, head to foot.

    >>> level_span([VertebralLevel.T10, VertebralLevel.L1, VertebralLevel.S1], {VertebralLevel.T10})
    'T10? to sacrum'
    """
    if not levels:
        return "none recognised"
    first, last = (level_name(level, uncertain) for level in (min(levels), max(levels)))
    return first if first == last else f"{first} to {last}"


def level_names(finding: FindingRecord, uncertain: Levels) -> str:
    """The levels of a finding, or that there are none."""
    return join_words([level_name(level, uncertain) for level in finding.levels]) or "no level"


def slices_text(finding: FindingRecord) -> str:
    """The slices of a finding: "slices 5-9"."""
    first, last = finding.slice_first, finding.slice_last
    return f"slice {first}" if first == last else f"slices {first}-{last}"


def place_text(finding: FindingRecord) -> str:
    """Where to look for a finding in the reference series: "slices 5-9 of 13, right of the midline"."""
    words = f"{slices_text(finding)} of {finding.slice_count}"
    if finding.instance_number is not None:
        words = f"{words}, most in image {finding.instance_number}"
    return f"{words}, {_SIDES[finding.side]}" if finding.side else words


_SIDES: dict[Side, str] = {
    "right": "right of the midline",
    "left": "left of the midline",
    "midline": "in the midline",
    "both": "on both sides of the midline",
}


def review_text(finding: FindingRecord) -> str:
    """What a reader is asked to decide: "needs review: level, evidence"; empty where nothing is."""
    if not finding.needs_review:
        return ""
    topics = ", ".join(topic.value for topic in finding.review_topics)
    return f"needs review: {topics}" if topics else "needs review"


def is_doubtful(finding: FindingRecord) -> bool:
    """Whether a finding is more likely no lesion than one."""
    return finding.confidence < DOUBTFUL_BELOW


def lesion_count(lesions: int, doubtful: int) -> str:
    """How many lesions, the doubtful ones apart.

    >>> lesion_count(6, 4), lesion_count(4, 4), lesion_count(2, 0)
    ('2 likely, 4 doubtful', '4 doubtful', '2')
    """
    likely = lesions - doubtful
    if likely and doubtful:
        return f"{likely} likely, {doubtful} doubtful"
    return f"{doubtful} doubtful" if doubtful else str(likely)


def summary_sentences(findings: Sequence[FindingRecord], levels: Sequence[LevelRecord]) -> tuple[str, ...]:
    """What was found, in the order in which a radiologist would say it."""
    return tuple(_sentences(findings, levels))


def _sentences(findings: Sequence[FindingRecord], levels: Sequence[LevelRecord]) -> Iterator[str]:
    uncertain = uncertain_levels(levels)
    span = level_span([record.level for record in levels], uncertain)
    among = levels and all(finding.levels for finding in findings)
    seen = f"among the recognised vertebrae, {span}" if among else "in these images"
    if not findings and not levels:
        yield "No vertebra was recognised in these images, so that no lesion was found says nothing."
    elif not findings:
        yield f"No lesion was found {seen}."
    elif len(findings) == 1:
        yield f"{_one(findings[0])} was found {seen}: {_described(findings[0], uncertain)}."
    else:
        yield from _several(findings, uncertain, seen)
    review = [finding.lesion for finding in findings if finding.needs_review]
    if 2 < len(review) == len(findings):
        yield "All lesions need a reader's decision."
    elif review:
        noun, verb = ("Lesion", "needs") if len(review) == 1 else ("Lesions", "need")
        yield f"{noun} {join_words(number_runs(review))} {verb} a reader's decision."
    if uncertain and len(uncertain) == len(levels):
        yield "The names of all recognised levels are uncertain."
    elif uncertain:
        noun, verb = ("name", "is") if len(uncertain) == 1 else ("names", "are")
        yield f"The level {noun} {join_words(_uncertain_runs(levels))} {verb} uncertain."


def _uncertain_runs(levels: Sequence[LevelRecord]) -> list[str]:
    """The uncertain names, three or more neighbours as a span."""
    words: list[str] = []
    for is_uncertain, run in groupby(levels, lambda record: record.uncertain):
        names = [level_name(record.level, ()) for record in run] if is_uncertain else []
        words += [f"{names[0]} to {names[-1]}"] if len(names) > 2 else names
    return words


def _several(findings: Sequence[FindingRecord], uncertain: Levels, seen: str) -> Iterator[str]:
    likely = [finding for finding in findings if not is_doubtful(finding)]
    doubtful = [finding for finding in findings if is_doubtful(finding)]
    if likely and doubtful:
        yield (
            f"{len(findings)} possible lesions were found {seen}: {len(likely)} likely "
            f"({_total(likely)}) and {len(doubtful)} doubtful (confidence below "
            f"{percent(DOUBTFUL_BELOW)}; {_total(doubtful)})."
        )
        yield f"By compartment: {_counts(findings)}."
    else:
        noun = "lesions" if likely else f"doubtful lesions (confidence below {percent(DOUBTFUL_BELOW)})"
        yield f"{len(findings)} {noun} were found {seen}, {_total(findings)} in total: {_counts(findings)}."
    largest = max(likely or doubtful, key=lambda finding: finding.volume_mm3)
    if len(likely) == 1:
        yield f"The likely one is lesion {largest.lesion}: {_described(largest, uncertain)}."
    else:
        kind = "largest likely one" if likely and doubtful else "largest"
        yield f"The {kind} is lesion {largest.lesion}: {_described(largest, uncertain)}."


def _one(finding: FindingRecord) -> str:
    if is_doubtful(finding):
        return f"One doubtful lesion (confidence {percent(finding.confidence)})"
    return "One lesion"


def _total(findings: Sequence[FindingRecord]) -> str:
    return volume_text(sum(finding.volume_mm3 for finding in findings))


def _counts(findings: Sequence[FindingRecord]) -> str:
    compartments = [finding.compartment for finding in findings]
    return join_words([f"{compartments.count(c)} {c.value}" for c in dict.fromkeys(compartments)])


def _described(finding: FindingRecord, uncertain: Levels) -> str:
    names = level_names(finding, uncertain)
    place = f"in the {names}" if names.startswith("sacrum") else f"at {names}"
    if not finding.levels:
        place = "with no recognised vertebra near it"
    size = f"{volume_text(finding.volume_mm3)}, longest diameter {length_text(finding.longest_diameter_mm)}"
    return f"{finding.compartment.value}{' ' if finding.levels else ', '}{place}, {size}"
