"""Sphinx builds the guide, whose pages GitHub shows as they are, and the reference."""

import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref

from skembft import __version__

sys.path.insert(0, str(Path(__file__).parent))  # of gallery_order

project = "skembft"
author = copyright = "The skembft developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # of `code` in docstrings; a link where it names an object
smartquotes = False  # they would curl those of default="query"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "skembft"
html_copy_source = False

myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say it in words
autodoc_default_options = {
    "members": True,
    "inherited-members": True,
    "special-members": "__call__",
}
numpydoc_show_class_members = False  # autodoc lists them

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "auto_examples/backreferences",
    "ignore_pattern": r"(^|/)(?!plot_)\w+\.py$",
    "within_subsection_order": "gallery_order.ReadingOrder",
    "minigallery_sort_order": "gallery_order.place",  # of the front page
    "abort_on_example_error": True,
    "parallel": 2,
    "show_signature": False,
    "write_computation_times": False,
}

_TOCTREE = """

```{{toctree}}
:hidden:
:glob:

{}
```
"""
_GALLERY = """
```{eval-rst}
.. minigallery:: ../examples/plot_*.py
```
"""
_PICTURE = re.compile(r"<!-- picture of (plot_\w+): (.+?) -->")
_EXAMPLE = re.compile(r"\(\.\./examples/(plot_\w+)\.py\)")
_OBJECT = re.compile(r"skembft\.[\w.]+|[A-Z]\w+")  # or "ValueError", not found: no link


def setup(app):
    app.connect("builder-inited", set_gallery_headers, priority=100)
    app.connect("source-read", show_gallery)
    app.connect("source-read", add_toctree)
    app.connect("doctree-read", link_code)
    app.connect("doctree-read", unlink_metrics)
    app.connect("autodoc-skip-member", skip_foreign_member)


def set_gallery_headers(app):
    """Let README.rst introduce a gallery; the README.md of the benchmarks does not."""
    app.config.sphinx_gallery_conf["source_suffix"] = {".rst": "restructuredtext"}


def show_gallery(app, docname, source):
    """Show the gallery and its pictures; on GitHub the links lead to the code."""
    picture = r"auto_examples/images/sphx_glr_\1_001.png"
    text = _PICTURE.sub(rf"[![\2]({picture})](auto_examples/\1.rst)", source[0])
    text = _EXAMPLE.sub(r"(auto_examples/\1.rst)", text)
    text = text.replace("(../examples/README.rst)", "(auto_examples/index.rst)")
    source[0] = text.replace("<!-- gallery -->", _GALLERY)


def add_toctree(app, docname, source):
    """Add a toctree to what lists its pages already; GitHub would show it as code."""
    if docname == "index":
        pages = re.findall(r"^- \[.+?\]\(([\w/]+)\.\w+\)", source[0], flags=re.M)
        source[0] += _TOCTREE.format("\n".join(pages))
    elif docname == "api":
        source[0] += _TOCTREE.format("reference/*")


def link_code(app, doctree):
    """Let inline code that names a public object lead to its entry in the reference."""
    for code in list(doctree.findall(nodes.literal)):
        name = code.astext()
        if not _OBJECT.fullmatch(name) or _is_in_title_or_link(code):
            continue
        link = pending_xref(
            refdomain="py",
            reftype="obj",
            reftarget=name,
            refspecific=True,  # in any module
            refwarn=name.startswith("skembft."),
            refdoc=app.env.docname,
        )
        code.replace_self(link)
        link += code


def _is_in_title_or_link(node):
    while node := node.parent:
        if isinstance(node, nodes.title | nodes.reference | pending_xref):
            return True
    return False


def unlink_metrics(app, doctree):
    """Make text of what docutils takes for a mail address, such as ndcg@10."""
    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(link.children)


def skip_foreign_member(app, what, name, member, skip, options):
    """Skip what scikit-learn adds: its docstrings refer to its own guide."""
    module = getattr(member, "__module__", None) or "skembft"
    return None if module.startswith("skembft") else True
