"""Parsing of answers and confidence in what a model writes. Ambiguous text is not parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Confidence in words. The expressions are those of Tian et al., *Just Ask for Calibration* (EMNLP 2023); the numbers
# are this package's reading of them. The longer of two that fit counts.
EXPRESSIONS = {
    "almost no chance": 0.02,
    "highly unlikely": 0.05,
    "very unlikely": 0.05,
    "chances are slight": 0.1,
    "little chance": 0.1,
    "unlikely": 0.2,
    "improbable": 0.2,
    "probably not": 0.25,
    "about even": 0.5,
    "even chance": 0.5,
    "better than even": 0.6,
    "likely": 0.7,
    "probable": 0.7,
    "probably": 0.7,
    "we believe": 0.75,
    "very good chance": 0.8,
    "very likely": 0.9,
    "highly likely": 0.9,
    "almost certain": 0.95,
    "certain": 0.99,
}

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_RANGE = re.compile(
    rf"(?:(?<!\d)(?<!\d[.,/]){_NUMBER}\s*%?\s*(?:-|–|to)|between\s+{_NUMBER}\s*%?\s*and)\s*{_NUMBER}\s*(?:%|percent\b)",
    re.IGNORECASE,
)
_PERCENT = re.compile(rf"(?<![\d.-]){_NUMBER}\s*(?:%|percent\b)")
_FRACTION = re.compile(rf"(?<![\d./]){_NUMBER}\s*(?:/|out of)\s*([1-9]\d*)(?![\d/]|\.\d)")
_DECIMAL = re.compile(r"(?<![\w.\-/])(0?\.\d+|0|1(?:\.0+)?)(?![\w%/]|\.\d)")
_NAMED = re.compile(rf"(?:confidence|probability|certainty|sure)[^\d\n]{{0,20}}?{_NUMBER}(?![\d%])", re.IGNORECASE)
# What a negated expression means is unclear, and "50,5%" may be one number or two.
_NEGATED = re.compile(
    rf"(?:\bnot|n't|\bnever|\bhardly)\s+(?:\w+\s+){{0,2}}?(?:{'|'.join(EXPRESSIONS)})\b", re.IGNORECASE
)
_UNCLEAR = re.compile(rf"\d,\d+\s*(?:%|percent\b)|\bnot\s+(?:a\s+)?{_NUMBER}\s*(?:%|percent\b)", re.IGNORECASE)


def without_thought(text: str) -> str:
    """Return a text without everything up to the last `</think>`, and without an unclosed `<think>` block.

    Examples
    --------
    >>> without_thought("<think>A? No.</think>B"), without_thought("<think>A? No")
    ('B', '')
    """
    return text.rpartition("</think>")[2].partition("<think>")[0]


def up_to_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    r"""Return a reply up to the first stop in its answer, and whether there is one.

    Stops in a train of thought do not count (see `without_thought`), nor does white space that leads to the answer.

    Examples
    --------
    >>> up_to_stop("<think>A?\nNo.</think>\n\nB\nsince", ["\n"]), up_to_stop("<think>A?\nNo", ["\n"])
    (('<think>A?\nNo.</think>\n\nB', True), ('<think>A?\nNo', False))
    """
    answer = without_thought(text)
    lead = len(answer) - len(answer.lstrip())
    places = [place for place in (answer.find(stop, lead) for stop in stops) if place >= 0]
    if not places:
        return text, False
    begins = len(text) - len(text.rpartition("</think>")[2])
    return text[: begins + min(places)], True


def parse_confidence(text: str) -> float | None:
    """Return the confidence that a text states, in [0, 1]; None if it is missing, unclear or out of range.

    Percentages, a range of them (its middle), "8/10" and "80 out of 100", decimals from 0 to 1, a number of at most
    100 after "confidence" or "probability", and `EXPRESSIONS` are understood; the last one in the text counts. A train
    of thought is not read; see `without_thought`.

    Examples
    --------
    >>> [parse_confidence(text) for text in ("B, and I am 85% sure", "A. Confidence: 0.4", "C, very likely")]
    [0.85, 0.4, 0.9]
    """
    found = find_confidence(without_thought(text))
    return None if found is None else found[1]


def find_confidence(text: str) -> tuple[int, float] | None:
    """Return where the confidence that `parse_confidence` reads begins in a text, and the confidence.

    Examples
    --------
    >>> find_confidence("B, 85%")
    (3, 0.85)
    """
    if _UNCLEAR.search(text):
        return None
    found: list[tuple[int, int, float]] = []
    for match in _RANGE.finditer(text):
        found.append((match.end(), match.start(), (float(match[1] or match[2]) + float(match[3])) / 200))
    for match in _PERCENT.finditer(text):
        found.append((match.end(), match.start(), float(match[1]) / 100))
    for match in _FRACTION.finditer(text):
        even = "/" in match[0] and float(match[1]) == float(match[2]) == 50  # "50/50"
        found.append((match.end(), match.start(), 0.5 if even else float(match[1]) / float(match[2])))
    if not found:
        for match in _NAMED.finditer(text):
            value = float(match[1])
            found.append((match.end(), match.start(), value if value <= 1 else value / 100))
    if not found:
        found = [(match.end(), match.start(), float(match[1])) for match in _DECIMAL.finditer(text)]
    if not found:
        if _NEGATED.search(text):
            return None
        lowered = text.lower()
        for words, value in EXPRESSIONS.items():
            for match in re.finditer(rf"\b{words}\b", lowered):
                found.append((match.end() * 100 + len(words), match.start(), value))
    if not found:
        return None
    # Where a range and its last percentage end together, the range comes first and is kept.
    _, start, value = max(found, key=lambda own: own[0])
    return (start, value) if 0 <= value <= 1 else None


_WHOLE = re.compile(rf"{_NUMBER}\s*(?:(%|percent)|(?:/|out of)\s*(10|100))?", re.IGNORECASE)


def whole_confidence(text: str) -> float | None:
    """Return the confidence that a text states and nothing else, in [0, 1]; None where it is anything else.

    A number of at most 1 is a probability, a greater one a percentage. "80%", "80 percent", "8/10", "80 out of 100"
    and `EXPRESSIONS` are understood. White space around it and a period behind it do not matter.

    Examples
    --------
    >>> [whole_confidence(text) for text in ("0.8", "80", " 80%.", "8/10", "Very likely", "1", "1%")]
    [0.8, 0.8, 0.8, 0.8, 0.9, 1.0, 0.01]
    >>> [whole_confidence(text) for text in ("120", "-0.5", "0.8 or 0.9", "sure", "")]
    [None, None, None, None, None]
    """
    plain = text.strip().removesuffix(".").strip()
    match = _WHOLE.fullmatch(plain)
    if match is None:
        return EXPRESSIONS.get(plain.casefold())
    number, percent, out_of = float(match[1]), match[2], match[3]
    value = number / float(out_of) if out_of else number / 100 if percent or number > 1 else number
    return value if value <= 1 else None


@dataclass(frozen=True)
class StatedAnswer:
    """An answer with the confidence that was stated in it.

    Parameters
    ----------
    answer : str or None
        None where there is none, an empty one, or more than one.
    confidence : float or None
        In [0, 1]; None where there is none, more than one, or one that `whole_confidence` cannot read.
    well_formed : bool
        Whether both are there, the confidence after the answer and nothing after the confidence.
    """

    answer: str | None
    confidence: float | None
    well_formed: bool


def _tagged(opening: str, closing: str) -> tuple[str, str]:
    # From the last opening before a closing, since a text may mention the tags.
    return tuple(  # type: ignore[return-value]
        f"{begin}((?:(?!{begin}).)*?){closing.format(name)}"
        for name in ("answer", "confidence")
        for begin in [opening.format(name)]
    )


# Where an answer and its confidence stand, as regular expressions with one group each.
STYLES = {
    "tags": _tagged("<{}>", "</{}>"),
    "brackets": _tagged(r"\[{}\]", r"\[/{}\]"),
    "lines": tuple(rf"^[ \t*_#]*{name}[ \t*_]*:[ \t*_]*([^\n]*?)[ \t*_]*$" for name in ("answer", "confidence")),
}


def check_style(style: str) -> None:
    """Raise a ValueError unless there is such a style of stated confidence."""
    if style not in ("auto", *STYLES):
        raise ValueError(f"style: {style!r} is not one of auto, {', '.join(STYLES)}")


def read_stated_answer(text: str, style: str = "auto") -> StatedAnswer:
    """Return the answer and the confidence that a text states.

    A train of thought is not read; see `without_thought`.

    Parameters
    ----------
    text : str
    style : {"auto", "tags", "brackets", "lines"}, default "auto"
        `<answer>Paris</answer><confidence>80%</confidence>`, the same in brackets, or the lines `Answer: Paris` and
        `Confidence: 80%`, in upper or lower case. "auto" is the first of these that the text has something of.

    Raises
    ------
    ValueError
        If there is no such style.

    Examples
    --------
    >>> read_stated_answer("<answer>Paris</answer> <confidence>80%</confidence>")
    StatedAnswer(answer='Paris', confidence=0.8, well_formed=True)
    """
    check_style(style)
    text = without_thought(text)
    for patterns in STYLES.values() if style == "auto" else (STYLES[style],):
        answers, confidences = (
            list(re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE | re.DOTALL)) for pattern in patterns
        )
        if answers or confidences:
            break
    answer = answers[0][1].strip() or None if len(answers) == 1 else None
    confidence = whole_confidence(confidences[0][1]) if len(confidences) == 1 else None
    well_formed = (
        answer is not None
        and confidence is not None
        and answers[0].end() <= confidences[0].start()
        and not text[confidences[0].end() :].strip()
    )
    return StatedAnswer(answer, confidence, well_formed)


_BOXED = re.compile(r"\\boxed\s*\{(?:\\\w+\{)?([^{}]*)\}+")
# What says in the same clause that a letter is not the answer, before it and behind it.
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|wrong|incorrect)\b|n't\b)(?:(?!\b(?:but|so)\b)[^.,;:!?\n])*$", re.IGNORECASE
)
_DENIED_BEHIND = re.compile(r"[^\w\s?]*(?:\?|\s+(?:is|are)(?:n't|\s+(?:not|wrong|incorrect))\b)", re.IGNORECASE)


def parse_letter(text: str, letters: str, choices: Sequence[str] = ()) -> int | None:
    r"""Return the index of the option that a text answers; None if that is unclear.

    In this order: what follows "answer" ("the answer is (B)", "**Answer**: B") or stands in \boxed{} (the last one
    counts); a letter that the text begins with ("B", "B.", "(B) because", "Option B", "B is correct"); an option's
    text that is the whole text; the only letter in parentheses. A letter that is denied, questioned or one of several
    is not read, and neither is a train of thought; see `without_thought`.

    Examples
    --------
    >>> parse_letter("(B) since water is wet", "ABCD"), parse_letter("A river is wet, so the answer is C.", "ABCD")
    (1, 2)
    >>> parse_letter("A river is wet", "ABCD") is None, parse_letter("The answer is B or C", "ABCD") is None
    (True, True)
    """
    stripped = _BOXED.sub(r" Answer: \1\n", without_thought(text)).strip()
    one = rf"(?:[\"'*\s(\[]|\b[Oo]ption\s)*([{letters}])"
    several = rf"[{letters}]\W*(?:\s(?:and|or|nor)\s|/)\W*[{letters}]\b"

    def unclear(match: re.Match[str], joined: str = several) -> bool:
        return bool(
            _DENIED_BEFORE.search(stripped[: match.start()])
            or _DENIED_BEHIND.match(stripped, match.end(1))
            or re.match(joined, stripped[match.start(1) :])
        )

    # "I" followed by a word is the pronoun.
    named = list(re.finditer(rf"\b(?i:answer)\b\**(?:\s+is)?\s*:?{one}(?![\w'])(?!(?<=I)\s+\w)", stripped))
    if named:
        if unclear(named[-1]):
            return None
        line = stripped[named[-1].start(1) :].partition("\n")[0]
        # "Answer: A dog"; a letter alone is the letter, also where it is an option's text.
        by_text = _choice_of(line, choices) if len(line.strip(" .)*]\"'")) > 1 else None
        return letters.index(named[-1][1]) if by_text is None else by_text
    ends = r"\s*[.):,;\]*\"\n]|\s*$|\s*\(?\d|\s+-|\s+is\s+(?:the\s+)?(?:correct|right)\b"
    begins = re.match(rf"{one}(?:{ends})", stripped)
    if begins:
        # "(B) or (C)?" repeats the question.
        return None if unclear(begins, rf"{several}(?!\W*\?)") else letters.index(begins[1])
    by_text = _choice_of(stripped, choices)
    if by_text is not None:
        return by_text
    inside = list(re.finditer(rf"\(([{letters}])\)", stripped))
    if len({match[1] for match in inside}) != 1 or any(map(unclear, inside)) or re.search(several, stripped):
        return None
    return letters.index(inside[0][1])


def _choice_of(text: str, choices: Sequence[str]) -> int | None:
    """Return the index of the only choice with a text, up to case and a period."""
    plain = text.strip().rstrip(".").casefold()
    same = [index for index, choice in enumerate(choices) if choice.strip().rstrip(".").casefold() == plain]
    return same[0] if len(same) == 1 else None


def parse_guesses(text: str, letters: str) -> dict[int, float]:
    """Return the options and probabilities in a list of guesses, "B: 60%", one per line or separated by commas.

    Guesses without a letter or a probability are skipped; if an option is named twice, the first one counts.
    """
    guesses: dict[int, float] = {}
    between = rf"\n|[,;]\s*(?=(?:\d+\s*[.)]\s*)?\(?[{letters}]\)?\s*[:(])"
    for line in re.split(between, without_thought(text)):
        cleaned = re.sub(r"^\s*(?:(?:guess|G)?\s*\d+\s*[.):]\s*|[-*]\s+)", "", line)
        letter, value = parse_letter(cleaned, letters), parse_confidence(cleaned)
        if letter is not None and value is not None:
            guesses.setdefault(letter, value)
    return guesses
