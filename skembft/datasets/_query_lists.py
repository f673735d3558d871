"""Find the queries in what a language model has answered."""

import re
from collections.abc import Iterator

_LABEL = r"(?:question|query|q)\s*#?\d{0,3}[*_]*(?:[.:：)]|\s[-–—])[*_]*(?:\s+|$)"
# "1. ", "2) ", "(3) ", "**4.** ", "5、", "Q6: ", "- **Question 7:** ", "8. Query: "
_NUMBER = re.compile(
    r"[\s>#*_(\[•–—-]*"
    rf"(?:\d{{1,3}}[*_]*[.:：)\]、．]{{1,2}}[*_]*(?!\d)\s*(?:[*_]*{_LABEL})?|{_LABEL})",
    re.IGNORECASE,
)
_BULLET = re.compile(r"[-*+•–—]\s+")
_WRAPPERS = [("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`")]
_WRAPPERS += [('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“")]


def parse_queries(answer: str, n_queries: int) -> list[str]:
    """Return the distinct queries of a language model's answer, at most `n_queries`.

    They are the items of a numbered list; without one those of a bulleted list;
    without either the lines that end in a question mark. Anything else, such as
    "Here are two questions:", is left out.
    """
    # what a reasoning model has thought; without an end it never came to an answer
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]
    lines = [line for line in map(str.strip, answer.splitlines()) if line]
    for marker in (_NUMBER, _BULLET, None):
        queries: dict[str, str] = {}
        for text in _items(lines, marker):
            text = _undress(text)
            if any(map(str.isalnum, text)) and not text.endswith((":", "：")):
                queries.setdefault(text.casefold(), text)
        if queries:
            return list(queries.values())[:n_queries]
    return []


def _items(lines: list[str], marker: re.Pattern[str] | None) -> Iterator[str]:
    """Yield the lines that begin with a marker, without it; None: the questions."""
    for i, line in enumerate(lines):
        if marker is None:
            if _undress(line).endswith(("?", "？", "؟")):
                yield line
        elif match := marker.match(line):
            text = line[match.end() :]
            following = lines[i + 1] if i + 1 < len(lines) else ""
            # "**Question 1:**" can have its question on the next line
            yield following if not text and not marker.match(following) else text


def _undress(text: str) -> str:
    """Take quotes and Markdown's emphasis off a query."""
    text = text.strip().removesuffix(",")  # of a JSON list
    if text.count("**") % 2:  # the marker had the other one
        text = text.removeprefix("**").removesuffix("**").strip()
    for _ in range(3):  # quotes in emphasis, emphasis in quotes
        for start, end in _WRAPPERS:
            inner = text[len(start) : -len(end)]
            wrapped = text.startswith(start) and text.endswith(end)
            if wrapped and inner and start not in inner and end not in inner:
                text = inner.strip()
    return text
