"""The model card of a saved directory."""

import os
from typing import Any

from skembft._saving.params import plain_parameter
from skembft._saving.state import ARRAYS, Saved
from skembft._version import __version__


def model_card(finetuner: Saved, split: bool, makes_model: bool) -> str:
    """README.md: what was trained on how much, and what it brought."""
    base = getattr(finetuner, "encoder_", finetuner)
    base = getattr(base, "model_id", None) or type(base).__name__
    local = os.path.isdir(str(base))
    name = os.path.basename(os.path.normpath(str(base))) if local else str(base)
    kind = "sentence-transformers" if makes_model and not split else ""
    lines = ["---", "tags:", "- sentence-similarity", "- skembft"]
    if kind:
        lines += [f"library_name: {kind}", "pipeline_tag: sentence-similarity"]
    if not local and "/" in name:
        lines += [f"base_model: {name}"]
    lines += ["---", "", f"# {name}, fine-tuned for retrieval", ""]
    lines += [
        f"Made by `{type(finetuner).__name__}` of skembft {__version__} from `{name}`; "
        f"its vectors have {finetuner.embedding_dim_} dimensions.",
        "",
    ]
    sizes = getattr(finetuner, "_sizes", None)
    if sizes:
        listed = ", ".join(f"{count:,} {what}" for what, count in sizes.items())
        lines += [f"Data of the fit: {listed}.", ""]
    if finetuner.base_score_ is not None:
        lines += [
            f"| {finetuner.scoring} on held-out queries | value |",
            "|---|---|",
            f"| before | {finetuner.base_score_:.4f} |",
            f"| after | {finetuner.validation_score_:.4f} |",
            "",
        ]
    lines += ["## Use", "", *_usage(finetuner, split, makes_model), ""]
    changed = {
        name: value
        for name, value in finetuner.get_params(deep=False).items()
        if name not in ("encoder", "model_id", "device", "model_output_path")
    }
    lines += ["## Parameters", "", "| parameter | value |", "|---|---|"]
    for name, value in changed.items():
        shown, known = plain_parameter(name, value)
        lines.append(
            f"| `{name}` | `{shown!r}` |" if known else f"| `{name}` | {shown} |"
        )
    return "\n".join(lines) + "\n"


def _usage(finetuner: Any, split: bool, makes_model: bool) -> list[str]:
    if not makes_model:
        similarity = {"dot": "dot product"}.get(finetuner.similarity_, "cosine")
        return [
            "The ids or texts of the documents that have moved are in "
            f"`documents.json`, their vectors in the same order in `{ARRAYS}` "
            f"(`moved_vectors`). Put them into an index that ranks by {similarity}.",
        ]
    lines = ["```python", "from sentence_transformers import SentenceTransformer", ""]
    if split:
        lines += [
            'queries = SentenceTransformer("path/query").encode(["a query"])',
            'documents = SentenceTransformer("path/document").encode(["a document"])',
        ]
    else:
        lines += [
            'model = SentenceTransformer("path")',
            'queries = model.encode_query(["a query"])',
            'documents = model.encode_document(["a document"])',
        ]
    return [*lines, "```"]
