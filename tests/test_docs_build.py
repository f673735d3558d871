"""The built guide and reference: no warning, no dead link, an entry for every name."""

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
    for needed in ("furo", "myst_parser", "numpydoc", "sphinx"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("docs") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run([*command, DOCS, out], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    files = [*out.rglob("*.html"), *out.glob("_downloads/**/*.py")]
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
