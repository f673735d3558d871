"""The user guide: its examples run, its links lead somewhere, its API page is whole."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import skembft
from skembft import (
    calibration,
    callbacks,
    datasets,
    exceptions,
    inspection,
    integrations,
    metrics,
    mining,
    model_selection,
)

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EXAMPLES = sorted((DOCS.parent / "examples").glob("plot_*.py"))
# those with examples that need other packages
DISTRIBUTED = {"optuna", "tracking"}
RUNNING_PAGES = [
    pytest.param(page, marks=pytest.mark.distributed)
    if page.stem in DISTRIBUTED
    else page
    for page in PAGES
]
FENCE = re.compile(r"^```(.*)$")
MODULES = [
    skembft,
    calibration,
    callbacks,
    datasets,
    exceptions,
    inspection,
    integrations,
    metrics,
    mining,
    model_selection,
]
PUBLIC_NAMES = [
    f"{module.__name__}.{name}"
    for module in MODULES
    for name in module.__all__
    if not name.startswith("_")
]


def split_page(page):
    """Return (python, prose) of a page; lines keep their numbers in both."""
    python, prose, language = [], [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line)
        python.append(line if language == "python" and not fence else "")
        prose.append(line if language is None and not fence else "")
        if fence:
            assert language is None or not fence[1], f"{page.name}: {line}"
            language = fence[1] if language is None else None
    assert language is None, f"{page.name}: a block is not closed"
    return "\n".join(python), "\n".join(prose)


def heading_anchors(prose):
    """The anchors that GitHub and MyST make of headings."""
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.M)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.fixture
def namespace(static_model, pairs):
    """What docs/index.md promises: a model, queries, their documents, a corpus."""
    queries, documents = pairs
    words = [document.split() for document in documents]
    others = [" ".join([a[0], *b[1:]]) for a, b in zip(words, words[1:], strict=False)]
    return {
        "__name__": "docs",
        "model": static_model,
        "queries": queries,
        "documents": documents,
        "corpus": [*documents, *others],
    }


# toy data: training need not help
@pytest.mark.filterwarnings("ignore:Training did not help:UserWarning")
@pytest.mark.parametrize("page", RUNNING_PAGES, ids=lambda page: page.stem)
def test_examples_run(page, namespace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    python, _ = split_page(page)
    exec(compile(python, str(page), "exec"), namespace)


def test_api_page_lists_every_public_name():
    _, prose = split_page(DOCS / "api.md")
    anchors = re.findall(r'<a id="([\w.]+)"></a>`([\w.]+)`', prose)
    assert all(anchor == name for anchor, name in anchors)
    assert sorted(name for _, name in anchors) == sorted(PUBLIC_NAMES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    _, prose = split_page(page)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.is_file(), target
        assert not anchor or anchor in heading_anchors(split_page(linked)[1]), target


def test_index_links_every_page():
    _, prose = split_page(DOCS / "index.md")
    assert {page.name for page in PAGES} - {"index.md"} <= set(
        re.findall(r"\]\(([\w.]+)\)", prose)
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_make_a_gallery(example):
    code = example.read_text(encoding="utf-8")
    title, underline, *_ = ast.get_docstring(ast.parse(code)).splitlines()
    assert underline == "=" * len(title)
    assert code.count("\n# %%\n") >= 3
    assert code.count(".savefig(") == 1


def test_pages_show_pictures_of_examples():
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = set(re.findall(r"^<!-- picture of (\w+): .+ -->$", pages, flags=re.M))
    assert shown and shown <= {example.stem for example in EXAMPLES}
    for example in EXAMPLES:
        assert f"(../examples/{example.name})" in pages


@pytest.mark.parametrize(
    "page, estimator",
    [
        ("adapters.md", skembft.AdapterFinetuner),
        ("corpus.md", skembft.CorpusFinetuner),
        ("full_finetuning.md", skembft.EmbeddingFinetuner),
    ],
)
def test_defaults_are_those_of_the_signature(page, estimator):
    table = split_page(DOCS / page)[1].split("## Defaults")[1]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", table, flags=re.M)
    documented = {
        name: ast.literal_eval(default)
        for names, default in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    parameters = inspect.signature(estimator).parameters.values()
    assert documented == {p.name: p.default for p in parameters}
