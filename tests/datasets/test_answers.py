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


@pytest.mark.parametrize(
    "answer",
    ["", "\n", "I cannot answer.", "1.\n2.", "1. ---", "- **", "Here they are:"]
    + [f"<think>1. {A}\n", "1. Questions:"],
)
def test_answers_without_a_query(answer):
    assert _generation.parse_queries(answer, 2) == []


PIECES = st.sampled_from(
    ["1", "12", ".", ")", "(", "[", "]", ":", "**", "*", "_", "- ", "•", "Q", "query"]
    + ["Question", " ", "\n", '"', "'", "`", "“", "?", "？", "<think>", "</think>", "a"]
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
