"""The page that a comparison writes: what is in it, and how it works in a browser."""

import base64
import fnmatch
import gzip
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import skembft
from skembft import PrecomputedEncoder
from skembft.inspection import RetrievalCurveDisplay, compare_retrieval
from tests.inspection.browser import chromium

EVIL = [
    "</script><script>window.hacked = 1</script>",
    "<!-- <script> never closed",
    "<img src=https://example.org/x.png onerror='window.hacked = 1'>",
    "half of a pair \ud83d, &amp; $style ${chosen}",
]
METRICS = ["ndcg@10", "recall@3"]


def compared(n_queries=60, n_documents=200, texts=(), metrics=METRICS, grade=None):
    """Random encoders before, and better ones after, of queries and documents."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n_documents, 8)).astype(np.float32)
    names = [f"document {i} {'abc ' * (i % 4)}" for i in range(n_documents)]
    names[: len(texts)] = texts
    queries = [f"query {i} of {'red' if i % 3 else 'blue'} things" for i in range(60)]
    queries += [f"question {i}" for i in range(60, n_queries)]
    queries[: len(texts)] = [f"{text}?" for text in texts]
    queries = queries[:n_queries]
    documents = dict(zip(names, vectors, strict=True))
    retrievers = [
        PrecomputedEncoder(
            {
                query: vectors[i] + noise * rng.normal(size=8).astype(np.float32)
                for i, query in enumerate(queries)
            },
            documents,
        )
        for noise in (1.5, 1.0)
    ]
    y = [{names[i]: grade or 1 + i % 3, names[i - 1]: 1} for i in range(n_queries)]
    return compare_retrieval(*retrievers, queries, y, names, metrics, random_state=0)


@pytest.fixture(scope="module")
def comparison():
    return compared(texts=[*EVIL, "long " * 400])


@pytest.fixture(scope="module")
def path(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    comparison.to_html(path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        browser.resize(1300, 900)
        yield browser


@pytest.fixture
def page(browser, path):
    browser.open(path)
    browser.wait("performance.getEntriesByName('ready').length > 0")
    yield browser
    assert browser.errors == []
    assert browser.requests == [path.as_uri()]


def contents(path, name="contents"):
    """The data of the table, or the full texts, as the page has them."""
    page = path.read_text(encoding="utf-8")
    packed = re.search(f'id="{name}">([^<]*)</script>', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed))) if packed else None


def test_rankings_are_those_of_the_comparison(comparison, path):
    found = contents(path)
    texts = contents(path, "texts")["documents"]
    for change in [*comparison.best(60), *comparison.worst(60)]:
        for side, documents in enumerate(
            (change.documents_before, change.documents_after)
        ):
            places = found["documentsOf"][side][change.index]
            shown = [texts.get(str(p), found["documents"][p]) for p in places]
            grades = found["grades"][side][change.index]
            wanted = [" ".join(text.split()) for text, _ in documents]
            assert [" ".join(text.split()) for text in shown] == wanted
            assert grades == [grade for _, grade in documents]
    for name, values in zip(METRICS, found["after"], strict=True):
        np.testing.assert_allclose(values, comparison.after[name], atol=1e-6)


def scores_of(retriever, queries, documents):
    vectors = [
        retriever.transform(queries),
        retriever.transform_documents(documents),
    ]
    q, d = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    return q @ d.T


def test_ranks_scores_and_shifts_are_those_of_numpy(tmp_path):
    rng = np.random.default_rng(0)
    documents = {f"d{i}": v for i, v in enumerate(rng.normal(size=(90, 4)))}
    names, n = list(documents), 30
    sides = [
        PrecomputedEncoder(
            {f"q{i}": rng.normal(size=4) + documents[f"d{i}"] for i in range(n)},
            documents,
        )
        for _ in range(2)
    ]
    queries = [f"q{i}" for i in range(n)]
    comparison = compare_retrieval(*sides, queries, names[:n], names, "mrr@10")
    comparison.to_html(tmp_path / "page.html")
    found = contents(tmp_path / "page.html")
    scores = [scores_of(side, queries, names) for side in sides]
    order = [np.argsort(-each, axis=1) for each in scores]
    ranks = [np.argsort(each, axis=1) + 1 for each in order]
    for side, other in ((0, 1), (1, 0)):
        at = order[side][:, :10]
        known = np.take_along_axis(ranks[other], at, axis=1)
        assert found["elsewhere"][side] == np.where(known > 50, 0, known).tolist()
        shown = np.take_along_axis(scores[side], at, axis=1)
        np.testing.assert_allclose(found["scores"][side], shown, atol=1e-3)
    own = np.arange(n), np.arange(n)
    first = np.array([rank[own] for rank in ranks])
    assert found["first"] == np.where(first > 50, 0, first).tolist()
    assert found["relevant"] == [1] * n
    for i, missed in enumerate(found["missed"]):
        hidden = (first[:, i] > 10).all()
        assert [ranks for _, *ranks in missed] == (
            [[found["first"][0][i], found["first"][1][i]]] if hidden else []
        )

    relevant, irrelevant = comparison.score_shifts
    kept = (first <= 50).all(axis=0)
    assert relevant["document"] == "best relevant"
    assert relevant["n_queries"] == kept.sum()
    np.testing.assert_allclose(relevant["before"], np.median(scores[0][own][kept]))
    np.testing.assert_allclose(
        relevant["quartiles_after"], np.quantile(scores[1][own][kept], [0.25, 0.75])
    )
    for each in scores:
        each[own] = -np.inf
    assert irrelevant["n_queries"] == n
    np.testing.assert_allclose(irrelevant["after"], np.median(scores[1].max(axis=1)))
    assert f"{irrelevant['after']:.4f} after (30 queries)" in repr(comparison)


def test_curves_are_those_of_the_display(tmp_path):
    rng = np.random.default_rng(0)
    documents = {f"d{i}": v for i, v in enumerate(rng.normal(size=(12, 3)))}
    queries = {f"q{i}": rng.normal(size=3) + documents[f"d{i}"] for i in range(9)}
    retriever = PrecomputedEncoder(queries, documents)
    data = list(queries), [{f"d{i}": 1, "d11": 2} for i in range(9)], list(documents)
    names = ["nDCG@10", "recall@10", "recall@5"]
    compare_retrieval(retriever, retriever, *data, names).to_html(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    for stem in ("nDCG", "recall"):
        display = RetrievalCurveDisplay.from_estimator(
            retriever, *data[:2], corpus=data[2], metric=stem, ks=[1, 2, 3, 5, 10]
        )
        told = "; ".join(
            f"k = {k}: {value:.3f}, {value:.3f}"
            for k, value in zip(
                display.ks, display.scores["PrecomputedEncoder"], strict=True
            )
        )
        assert f'"{stem} at k before and after. {told}"' in page


@pytest.mark.parametrize("n_documents", [2, 5])
def test_few_documents(tmp_path, n_documents):
    comparison = compared(2, n_documents)
    comparison.to_html(tmp_path / "page.html")
    assert len(contents(tmp_path / "page.html")["documents"]) == n_documents


def test_vectors_are_shown_by_number(tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 3))
    encoders = [AddOne(), AddOne()]
    comparison = compare_retrieval(*encoders, X, [i % 2 for i in range(20)])
    comparison.to_html(tmp_path / "page.html")
    found = contents(tmp_path / "page.html")
    assert found["queries"][3] == "query 3"
    assert found["documentsOf"][0][3] and "document 3" in found["documents"]
    # a query does not retrieve itself
    assert all(
        f"document {i}" not in {found["documents"][d] for d in documents}
        for i, documents in enumerate(found["documentsOf"][0])
    )


class AddOne:
    _item_kind = "vector"

    def transform(self, X):
        return X + 1

    transform_documents = transform


def test_bad_paths_are_refused_before_work(comparison, tmp_path, monkeypatch):
    monkeypatch.setattr("skembft.inspection._comparison.report", None)
    with pytest.raises(FileNotFoundError, match="There is no directory"):
        comparison.to_html(tmp_path / "nowhere" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a directory"):
        comparison.to_html(tmp_path)
    with pytest.raises(ValueError, match="path is empty"):
        comparison.to_html("")
    with pytest.raises(TypeError, match="NoneType"):
        comparison.to_html(None)


def test_a_failure_leaves_the_file_as_it_was(comparison, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("mine")
    monkeypatch.setattr("skembft.inspection._comparison.report", None)
    with pytest.raises(TypeError):
        comparison.to_html(path)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert comparison.to_html(str(path)) is None
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    comparison.to_html(tmp_path / "again.html", title="<b> & co.")
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert "<h1>&lt;b&gt; &amp; co.</h1>" in again
    assert again.count("<script") == path.read_text(encoding="utf-8").count("<script")


def test_many_queries_stay_small(tmp_path, monkeypatch):
    words = np.array([f"word{i}" for i in range(5000)])
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 40)) for _ in range(1000)]
    comparison = compared(1000, 1000, texts)
    path = tmp_path / "page.html"
    comparison.to_html(path)
    page = path.read_text(encoding="utf-8")
    sizes = [
        len(re.search(f'id="{name}">([^<]*)', page).group(1))
        for name in ("contents", "texts")
    ]
    limit = "skembft.inspection._report.contents._LIMIT"
    for allowed, width, full in (
        (sum(sizes), 240, True),
        (sizes[0], 240, False),
        (sizes[0] - 1, 120, False),
        (sizes[0] // 2, 30, False),
    ):
        monkeypatch.setattr(limit, allowed)
        comparison.to_html(path)
        assert max(map(len, contents(path)["documents"])) == width
        assert (contents(path, "texts") is not None) == full
    monkeypatch.setattr("skembft.inspection._report.contents._MOST_QUERIES", 50)
    comparison.to_html(path)
    gains = np.abs(comparison.gains())
    found = contents(path)
    shown = np.abs(np.subtract(found["after"][0], found["before"][0]))
    np.testing.assert_allclose(np.sort(shown), np.sort(gains)[-50:], atol=2e-6)
    assert "the 50 whose ndcg@10 changed most" in path.read_text(encoding="utf-8")


def test_the_wheel_holds_the_files():
    root = Path(skembft.__file__).parent
    project = root.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package: its files are there, or all else fails")
    tables = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]
    for file in root.rglob("*.*"):
        if file.suffix not in (".py", ".pyc"):
            package = ".".join(file.parent.relative_to(root.parent).parts)
            patterns = tables["package-data"].get(package, [])
            assert any(fnmatch.fnmatch(file.name, p) for p in patterns), file


ROWS = "[...document.querySelectorAll('#table tbody tr')]"
COLUMN = ROWS + ".map(tr => tr.cells[{}].textContent)"


def click(page, selector, text=""):
    """Click the first element of a selector that holds a text."""
    page.run(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".find(e => e.textContent.includes({json.dumps(text)})).click()"
    )


def gains_shown(page):
    found = page.run(COLUMN.format(3))
    return [float(text.replace("−", "-").replace("±", "")) for text in found]


def test_sorting(page, comparison):
    gains = np.sort(comparison.gains())
    np.testing.assert_allclose(gains_shown(page), gains[::-1][:15], atol=5e-4)
    sorts = "[...document.querySelectorAll('#table th')].map(th => th.ariaSort)"
    assert page.run(sorts)[:5] == [None, None, None, "descending", None]
    click(page, "#table th button", "gain")
    np.testing.assert_allclose(gains_shown(page), gains[:15], atol=5e-4)
    assert page.run(sorts)[3] == "ascending"
    click(page, "#forth")
    np.testing.assert_allclose(gains_shown(page), gains[15:30], atol=5e-4)
    assert page.run("document.getElementById('page').textContent") == "page 2 of 4"
    click(page, "#table th button", "query")
    names = page.run(COLUMN.format(0))
    assert names == sorted(names, key=str.lower) and names[0].startswith("<!--")
    click(page, "#table th button", "first relevant")
    ranks = [text.split(" → ")[1] for text in page.run(COLUMN.format(4))]
    assert ranks[:3] == ["1", "1", "1"]
    click(page, "#table th button", "first relevant")
    worst = [text.split(" → ")[1] for text in page.run(COLUMN.format(4))]
    assert worst[0] in {">50", *map(str, range(2, 51))} and worst != ranks


def search(page, words):
    page.run(
        f"(() => {{ const box = document.getElementById('search'); box.value = "
        f"{json.dumps(words)}; box.dispatchEvent(new Event('input')); }})()"
    )
    page.run("new Promise(resolve => setTimeout(resolve, 50))")
    return page.run("document.getElementById('count').textContent")


def test_searching(page, comparison):
    wanted = [q for q in comparison.queries if "blue" in q]
    assert search(page, "THINGS blue") == f"{len(wanted)} of 60 queries"
    assert page.run("document.getElementById('count').role") == "status"
    assert set(page.run(COLUMN.format(0))) <= set(wanted)
    # what stands behind the cut is found too
    assert search(page, "long ?") == "1 of 60 queries"
    assert search(page, "nothing of that") == "0 of 60 queries"
    assert page.run(ROWS + ".length") == 0
    assert search(page, "") == "60 of 60 queries"


def test_filters_count_what_the_table_of_metrics_counts(page, comparison):
    buttons = "[...document.querySelectorAll('.list .filters button')]"
    for place, row in enumerate(comparison.rows):
        page.run(
            f"(() => {{ const box = document.getElementById('metric'); box.value = "
            f"{place}; box.dispatchEvent(new Event('change')); }})()"
        )
        never = sum(
            not a and not b
            for a, b in zip(*comparison._rankings.first_relevant, strict=True)
        )
        assert page.run(buttons + ".map(b => b.textContent)") == [
            "all 60",
            f"helped {row['helped']}",
            f"hurt {row['hurt']}",
            f"unchanged {row['unchanged']}",
            f"never found {never}",
        ]
        shown = page.run(
            "[...document.querySelectorAll('[data-metric]:not([hidden]) svg')]"
            ".map(svg => svg.getAttribute('aria-label'))"
        )
        assert len(shown) == 2 and row["metric"] in shown[1]
        click(page, ".list .filters button", "hurt")
        assert all(gain < 0 for gain in gains_shown(page))
        assert page.run(buttons + ".map(b => b.ariaPressed)")[2] == "true"
        click(page, ".list .filters button", "all")


def test_choosing_a_query_by_the_keyboard(page, comparison):
    change = comparison.best(2)[1]
    page.run(ROWS + "[0].querySelector('button').focus()")
    page.press("Tab", 9)
    page.press("Enter", 13)
    title = "document.getElementById('chosen').textContent"
    assert page.run(title) == change.query
    assert page.run(ROWS + ".map(tr => tr.querySelector('button').ariaCurrent)")[
        :2
    ] == ["false", "true"]
    lists = page.run(
        "[...document.querySelectorAll('.rankings ol')].map(ol => [...ol.children]"
        ".map(li => li.querySelector('.text').textContent))"
    )
    for shown, documents in zip(
        lists, (change.documents_before, change.documents_after), strict=True
    ):
        texts = [" ".join(text.split()) for text, _ in documents]
        assert shown == [t if len(t) <= 240 else t[:239] + "…" for t in texts]
    grades = page.run(
        "[...document.querySelectorAll('.rankings section:last-child .grade')]"
        ".map(e => e.textContent)"
    )
    wanted = [f"grade {grade:g}" for _, grade in change.documents_after if grade]
    assert grades == wanted
    # a line for every document, of which those that both show are counted once
    both = {t for t, _ in change.documents_before} & {
        t for t, _ in change.documents_after
    }
    page.wait(f"document.querySelectorAll('.lines path').length === {20 - len(both)}")
    click(page, "#later")
    assert page.run(title) == comparison.best(3)[2].query
    assert page.run("document.activeElement.id") == "later"


def test_a_page_of_few_documents(browser, tmp_path):
    X = np.random.default_rng(0).normal(size=(6, 3))
    encoder = AddOne()
    path = tmp_path / "page.html"
    compare_retrieval(encoder, encoder, X, [0, 0, 0, 1, 1, 1], None, "mrr@2").to_html(
        path
    )
    browser.open(path)
    browser.wait("performance.getEntriesByName('ready').length > 0")
    # a query does not retrieve itself
    assert browser.run("document.querySelectorAll('.document').length") == 2 * 5
    assert browser.run("document.body.innerText.includes('undefined')") is False
    assert browser.errors == []


def test_texts_are_only_texts(page, comparison):
    for text in EVIL:
        assert search(page, text) == "1 of 60 queries"
        page.run(ROWS + "[0].click()")
        shown = page.run("document.getElementById('chosen').textContent")
        assert shown == f"{text}?"
    page.run("document.querySelectorAll('.document').forEach(b => b.click())")
    page.run("new Promise(resolve => setTimeout(resolve, 50))")
    assert page.run("[typeof hacked, document.images.length]") == ["undefined", 0]


def test_the_full_text_on_demand(page, comparison):
    changes = comparison.best(60) + comparison.worst(60)
    long = "long " * 400
    query = next(c.query for c in changes if long in dict(c.documents_after))
    search(page, query)
    page.run(ROWS + "[0].click()")
    document = (
        "[...document.querySelectorAll('.rankings section:last-child .document')]"
        ".find(e => e.textContent.includes('long'))"
    )
    text = document + ".querySelector('.text').textContent"
    assert page.run(text + ".length") == 240 and page.run(text).endswith("…")
    page.run(document + ".click()")
    page.wait(text + ".length > 240")
    assert page.run(text) == long
    assert page.run(document + ".ariaExpanded") == "true"
    page.run(document + ".click()")
    page.wait(text + ".length === 240")


def test_both_themes(page):
    color = "getComputedStyle(document.body).backgroundColor"
    pressed = "document.getElementById('theme').ariaPressed"
    shown = {}
    for theme in ("light", "dark"):
        page.prefer(theme)
        page.wait(pressed + f" === '{'true' if theme == 'dark' else 'false'}'")
        shown[theme] = page.run(color)
    assert shown["light"] != shown["dark"]
    click(page, "#theme")
    assert page.run(color) == shown["light"] and page.run(pressed) == "false"
    page.prefer("light")
    click(page, "#theme")
    assert page.run(color) == shown["dark"] and page.run(pressed) == "true"


def test_a_phone_needs_no_scrolling_sideways(page):
    page.resize(400, 800)
    assert page.run("document.documentElement.scrollWidth") == 400
    page.run(ROWS + "[3].click()")
    assert page.run("document.activeElement.id") == "detail"
    page.resize(1300, 900)
    named = (
        "[...document.querySelectorAll('button, select, input')].every(e => "
        "e.textContent.trim() || e.ariaLabel || e.labels?.length)"
    )
    assert page.run(named)
