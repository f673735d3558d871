"""What models answer to the prompt of generate_pairs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skembft.datasets import _generation

A, B = "What did revenue grow by in 2021?", "Who leads the company?"


@pytest.mark.parametrize(
    "answer",
    [
        f"1. {A}\n2. {B}",
        f"1) {A}\n2) {B}",
        f"(1) {A}\n(2) {B}",
        f"[1] {A}\n[2] {B}",
        f"1: {A}\n2: {B}",
        f"1.{A}\n2.{B}",
        f"1.) {A}\n2.) {B}",
        f"1、{A}\n2、{B}",
        f"Q1: {A}\nQ2: {B}",
        f"Q1. {A}\nA1: By 5 %.\nQ2. {B}\nA2: Nobody.",
        f"Q: {A}\nA: By 5 %.\nQ: {B}\nA: Nobody.",
        f"Question 1: {A}\nQuestion 2: {B}",
        f"Question #1: {A}\nQuestion #2: {B}",
        f"Query 1 - {A}\nQuery 2 - {B}",
        f"- {A}\n- {B}",
        f"* {A}\n* {B}",
        f"• {A}\n• {B}",
        f"- 1. {A}\n- 2. {B}",
        f"**1.** {A}\n**2.** {B}",
        f"**1. {A}**\n**2. {B}**",
        f"1. **{A}**\n2. *{B}*",
        f"### 1. {A}\n### 2. {B}",
        f"**Question 1:** {A}\n\n**Question 2:** {B}",
        f"**Question 1**: {A}\n\n**Question 2**: {B}",
        f"**Question 1:**\n{A}\n\n**Question 2:**\n{B}",
        f"1. **Question:** {A}\n   **Answer:** 5\n2. **Question:** {B}\n   - Answer: ?",
        f'1. "{A}"\n2. “{B}”',
        f'1. **"{A}"**\n2. "**{B}**"',
        f"{A}\n{B}",
        f'"{A}"\n"{B}"',
        f'```json\n[\n  "{A}",\n  "{B}"\n]\n```',
        f"Here are two questions:\n\n1. {A}\n2. {B}\n\nLet me know if you need more!",
        f"Sure! Here are 2 questions that the passage answers.\n{A}\n{B}",
        f"**Questions:**\n- {A}\n- {B}\nWould you like more?",
        f"1. Revenue:\n   - {A}\n2. People:\n   - {B}",
        f"1. {A}\n2. {A.upper()}\n3. {B}\n4. Anything else?",
        f"  1.   {A}  \r\n\r\n\t2.\t{B}\r\n",
        f"<think>\n1. Should I ask why?\n</think>\n\n1. {A}\n2. {B}",
        f"1. Should I ask why?\n</think>\n1. {A}\n2. {B}",
    ],
)
def test_answers(answer):
    assert _generation.parse_queries(answer, 2) == [A, B]


LANGUAGES = {
    "es": ("¿Cuándo se devuelve el dinero?", "¿Quién paga el envío?"),
    "fr": ("Quand serai-je remboursé\u00a0?", "Qui paie la livraison ?"),
    "de": ("Wann kommt das Geld zurück?", "Wer zahlt den Versand?"),
    "zh": ("多久可以退款？", "谁付运费？"),
    "ja": ("返金はいつですか。", "送料は誰が払いますか"),
    "ar": ("متى يصل المال؟", "من يدفع الشحن؟"),
    "el": ("Πότε επιστρέφονται τα χρήματα;", "Ποιος πληρώνει;"),
    "hi": ("पैसा कब वापस आएगा?", "भाड़ा कौन देगा?"),
}
LABELS = [
    "Question {n}: {q}",
    "Question {n} : {q}",
    "Question {n}\u00a0: {q}",
    "Question {n}\u202f: «\u00a0{q}\u00a0»",
    "Q{n}. {q}",
    "Pregunta {n}: {q}",
    "**Pregunta {n}:** {q}",
    "**Pregunta {n}**: {q}",
    "{n}. Pregunta: {q}",
    "{n}. **Pregunta:** {q}",
    "PREGUNTA {n}:\n{q}",
    "Frage {n}: „{q}“",
    "Domanda {n} - {q}",
    "Pergunta {n}. {q}",
    "Vraag {n}: {q}",
    "Вопрос {n}: {q}",
    "Ερώτηση {n}: {q}",
    "Soru {n}: {q}",
    "问题{n}：{q}",
    "问题 {n}: {q}",
    "问题{h}：{q}",
    "{n}. 问题：{q}",
    "質問{n}：「{q}」",
    "질문 {n}: {q}",
    "السؤال {n}: {q}",
    "प्रश्न {n}: {q}",
]
NUMBERS = [
    "{n}. {q}",
    "{n}) {q}",
    "{n} - {q}",
    "{n}.- {q}",
    "**{n}.** {q}",
    "({n}) {q}",
    "（{n}）{q}",
    "【{n}】{q}",
    "{n}、{q}",
    "{c}{q}",
    "{h}、{q}",
    "{a}) {q}",
    "({a}) {q}",
    "**{a})** {q}",
    "{r}. {q}",
    "- {q}",
    "{q}",
]
IN_ALL = ["{n}º {q}", "Swali la {n}: {q}", "Sorunun {n}) {q}"]  # known by that alone


@pytest.mark.parametrize("queries", LANGUAGES.values(), ids=list(LANGUAGES))
@pytest.mark.parametrize("form", LABELS + NUMBERS + IN_ALL)
def test_numbers_and_labels_of_other_languages(form, queries):
    names = [
        {"n": i + 1, "c": "①②"[i], "h": "一二"[i], "a": "ab"[i], "r": "i" * (i + 1)}
        for i in range(2)
    ]
    lines = [form.format(q=q, **n) for q, n in zip(queries, names, strict=True)]
    for answer in ("\n".join(lines), "Aquí están:\n\n" + "\n\n".join(lines)):
        assert _generation.parse_queries(answer, 2) == list(queries)


@pytest.mark.parametrize("space", [" ", "\t", "  "])
def test_numbers_without_punctuation(space):
    answer = f"1{space}What is a?\n2{space}What is b?"
    assert _generation.parse_queries(answer, 5) == ["What is a?", "What is b?"]


@pytest.mark.parametrize(
    "queries",
    [
        ["2024 was what?", "2025 was what?"],
        ["3 men did what?", "1 man did what?"],
        ["Apollo 1 did what?", "Apollo 2 did what?"],
    ],
)
def test_numbers_that_are_text(queries):
    assert _generation.parse_queries("\n".join(queries), 5) == queries


@pytest.mark.parametrize("form", LABELS + NUMBERS)
def test_a_single_query_with_a_number_or_label(form):
    names = {"n": 1, "c": "①", "h": "一", "a": "a", "r": "i"}
    assert _generation.parse_queries(form.format(q=A, **names), 1) == [A]


@pytest.mark.parametrize(
    "query",
    [
        "3D rendering: how does it work?",
        "2024: what changed?",
        "10:30 trains to where?",
        "Apollo 1: what happened?",
        "Windows 11: what is new in it?",
        "Question time: who was there?",
        "Questions 1 to 3: who set them?",
        "I. Newton discovered what?",
        "A. Smith wrote what?",
        "5 - 3 is what?",
        "1º de mayo: ¿qué se celebra?",
        "20° C: ¿hace calor?",
        "-5 degrees: is it cold?",
        "三、四线城市的房价如何？",
        "一带一路是什么？",
        "问题儿童怎么办？",
        "Вопросы языкознания: что это?",
        "Fragen kostet nichts?",
        "Sorular 1: hangileri?",
    ],
)
def test_text_that_looks_like_a_number_or_label(query):
    assert _generation.parse_queries(query, 1) == [query]
    assert _generation.parse_queries(f"{query}\nWho?", 2) == [query, "Who?"]
    assert _generation.parse_queries(f"1. {query}", 1) == [query]


@pytest.mark.parametrize(
    "query",
    [
        "What does *args mean?",
        "**Bold** or **strong**?",
        "What is 2**3?",
        '"A" or "B"?',
        "10-K filings of 2021",
        "3.5 million riders in which year?",
        "10:30 trains to Zürich",
        "2021: what happened?",
        "__init__ or __new__?",
        "Q-learning",
        "什么是机器学习？",
    ],
)
def test_queries_are_left_as_they_are(query):
    assert _generation.parse_queries(f"1. {query}", 2) == [query]
    assert _generation.parse_queries(f"- {query}\n- b", 1) == [query]


def test_a_quarter_in_a_numbered_list_is_no_label():
    assert _generation.parse_queries("1. Q4: did it grow?", 1) == ["Q4: did it grow?"]


@pytest.mark.parametrize(
    "answer",
    ["", "\n", "I cannot answer.", "1.\n2.", "1. ---", "- **", "Here they are:"]
    + [f"<think>1. {A}\n", "1. Questions:"],
)
def test_answers_without_a_query(answer):
    assert _generation.parse_queries(answer, 2) == []


PIECES = st.sampled_from(
    ["1", "12", ".", ")", "(", "[", "]", ":", "**", "*", "_", "- ", "•", "Q", "query"]
    + [
        "Question",
        "问题",
        "一",
        "①",
        "i",
        ";",
        "か",
        " ",
        "\n",
        '"',
        "'",
        "`",
        "“",
        "?",
        "？",
        "<think>",
        "</think>",
        "a",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)), st.integers(1, 4)
)
def test_any_answer_is_read(answer, n_queries):
    queries = _generation.parse_queries(answer, n_queries)
    assert len(queries) <= n_queries
    assert len({query.casefold() for query in queries}) == len(queries)
    for query in queries:
        assert query == query.strip() and query in answer
        assert any(map(str.isalnum, query)) and len(query.splitlines()) == 1
