"""Find the queries in what a language model has answered."""

import re
from collections.abc import Iterator

# "question" as models write it above one, in the language of the passage
_WORDS = (
    "question|query|q|pregunta|frage|domanda|pergunta|questão|questao|vraag|fråga|"
    "spørgsmål|spørsmål|kysymys|küsimus|pytanie|otázka|vprašanje|pitanje|kérdés|"
    "întrebarea|întrebare|вопрос|питання|въпрос|питање|ερώτηση|soru|sual|pertanyaan|"
    "soalan|câu hỏi|tanong|swali|คำถาม|ข้อ|प्रश्न|सवाल|প্রশ্ন|கேள்வி|ప్రశ్న|سوال|"
    "السؤال|سؤال|שאלה|问题|問題|質問|设问|问|問|질문|문제"
)
_HAN = "[一二三四五六七八九十]"
_END = r"(?:\s+|$|(?=[^\x00-\x7f])|(?<=[：）]))"  # other scripts need no space
_LABEL = (
    rf"(?:{_WORDS})\s*#?(?:\d{{1,3}}|{_HAN}{{1,3}})?[*_]*"
    rf"(?:\s?[.:：)）]|\s{{1,2}}[-–—](?=\s))[*_]*{_END}"
)
# "1. ", "2) ", "(3) ", "**4.** ", "5、", "6 - ", "7.- ", "一、", "①", "a) ", "ii. "
_ITEM = (
    r"(?:\d{1,3}[*_]*[.:：)）\]】、．]{1,2}[*_]*(?!\d)(?:[-–—]\s)?"
    rf"|{_HAN}{{1,3}}[.:：)）】、．]{{1,2}}(?!{_HAN})"
    r"|\d{1,3}\s[-–—]\s+(?!\d)|[①-⑳]|[a-h][*_]*[)）][*_]*(?=\s)"
    r"|(?-i:i{1,3}|iv|vi{0,3}|ix)[.)](?=\s))"
)
# also "Q6: ", "- **Question 7:** ", "8. Query: ", "Pregunta 9: ", "问题10："
_NUMBER = re.compile(
    rf"[\s>#*_(（\[【•–—-]*(?:{_ITEM}\s*(?:[*_]*(?!q\s?\d){_LABEL})?|{_LABEL})",
    re.IGNORECASE,
)
_BULLET = re.compile(r"[-*+•–—]\s+")
# a label in any other language, where all questions have it: "Swali la 1: ", "1º ",
# or a number alone
_COUNTED = re.compile(r"(\D{0,20}?)(\d{1,3})(?:\s?([^\w\s]{1,2}|º))?\s+")
_WRAPPERS = [("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`")]
_WRAPPERS += [('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("»", "«")]
_WRAPPERS += [("„", "“"), ("„", "”"), ("‹", "›"), ("「", "」"), ("『", "』")]
_GREEK = re.compile("[\u0370-\u03ff\u1f00-\u1fff].*[;\u037e]$")  # whose ? is ;


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
    if marker is None:
        yield from _without_numbers([line for line in lines if _is_question(line)])
        return
    for i, line in enumerate(lines):
        if match := marker.match(line):
            text = line[match.end() :]
            following = lines[i + 1] if i + 1 < len(lines) else ""
            # "**Question 1:**" can have its question on the next line
            yield following if not text and not marker.match(following) else text


def _is_question(line: str) -> bool:
    text = _undress(line)
    asks = text.endswith(("?", "？", "؟", "か", "か。"))
    return asks or _GREEK.search(text) is not None


def _without_numbers(questions: list[str]) -> list[str]:
    """Take off what counts the questions 1, 2, 3, …, where it is the same in all."""
    found = map(_COUNTED.match, questions)
    matches = [match for match in found if match and (match[3] or not match[1])]
    labels = {match.group(1, 3) for match in matches}
    numbers = [int(match[2]) for match in matches]
    # a single one may be text: "Apollo 1: what happened?"
    if len(labels) != 1 or numbers != [*range(1, max(len(questions), 2) + 1)]:
        return questions
    return [match.string[match.end() :] for match in matches]


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
