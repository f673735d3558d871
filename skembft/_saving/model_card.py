"""The model card of a saved directory: what the hub reads, and what people do."""

import os
import re
from numbers import Real
from typing import Any

from skembft._losses.table import LOSSES, wrapped_loss
from skembft._saving.params import plain_parameter
from skembft._saving.state import ARRAYS, Saved
from skembft._version import __version__

CARD = "README.md"
# what Sentence Transformers replaces by the name under which a model is published
_MODEL_ID = "sentence_transformers_model_id"
_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(finetuner: Saved, split: bool, makes_model: bool) -> str:
    """README.md: what was trained on how much, and what it brought."""
    base, on_hub = _base(finetuner)
    lines = [_front_matter(finetuner, makes_model and not split, base, on_hub), ""]
    lines += [f"# {base}, fine-tuned for retrieval", ""]
    lines += [
        f"Made by `{type(finetuner).__name__}` of skembft {__version__} from `{base}`; "
        f"its vectors have {finetuner.embedding_dim_} dimensions.",
        "",
    ]
    sizes = getattr(finetuner, "_sizes", None)
    if sizes:
        listed = ", ".join(f"{count:,} {what}" for what, count in sizes.items())
        lines += [f"Data of the fit: {listed}.", ""]
    if finetuner.base_score_ is not None and finetuner.validation_score_ is not None:
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
        cell = (f"`{shown!r}`" if known else str(shown)).replace("|", "\\|")
        lines.append(f"| `{name}` | {cell} |")
    return "\n".join(lines) + "\n"


def _base(finetuner: Any) -> tuple[str, bool]:
    """The name of the base model, and whether it is one of the hub.

    Of a directory it is the last part: the others are not for others.
    """
    base = getattr(finetuner, "encoder_", finetuner)
    path = str(getattr(base, "model_id", None) or type(base).__name__)
    if _ON_HUB.fullmatch(path) and not os.path.isdir(path):
        return path, True
    return os.path.basename(os.path.normpath(path)), False


def _tags(finetuner: Any, is_model: bool) -> list[str]:
    """Tags by which the hub finds it, as Sentence Transformers writes them."""
    tags = ["sentence-transformers"] if is_model else []
    tags += ["sentence-similarity", "feature-extraction", "skembft"]
    n_queries = (getattr(finetuner, "_sizes", None) or {}).get("queries")
    if n_queries:
        tags.append(f"dataset_size:{n_queries}")
    return tags + [f"loss:{name}" for name in _loss_classes(finetuner)]


def _loss_classes(finetuner: Any) -> list[str]:
    """Names of the classes of the loss, and of the one that it wraps."""
    loss = getattr(finetuner, "loss", None)
    if getattr(finetuner, "solver", None) == "closed_form":  # it has no loss
        return []
    names, params = [_loss_class(loss)], finetuner.get_params(deep=False)
    spec = LOSSES.get(loss) if isinstance(loss, str) else None
    if spec is not None and spec.needs == "loss":
        names.append(_loss_class(wrapped_loss(params["loss_params"])[0]))
    return [name for name in names if name]


def _loss_class(loss: Any) -> str | None:
    """The name of a loss's class; None of a callable, or of none."""
    if isinstance(loss, type):
        return loss.__name__
    spec = LOSSES.get(loss) if isinstance(loss, str) else None
    return None if spec is None else (spec.alias or (spec.class_name,))[0]


def _front_matter(finetuner: Any, is_model: bool, base: str, on_hub: bool) -> str:
    """What the hub reads, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    scores = _scores(finetuner)
    results = [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type="unknown",
            dataset_name="held-out queries",
            metric_type=name,
            metric_name=name.replace("_", " ").title(),
            metric_value=value,
        )
        for name, value in scores.items()
    ]
    data = ModelCardData(
        tags=_tags(finetuner, is_model),
        library_name="sentence-transformers" if is_model else None,
        pipeline_tag="sentence-similarity" if is_model else None,
        base_model=base if on_hub else None,
        metrics=list(scores) or None,
        model_name=f"{base}, fine-tuned for retrieval" if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _scores(finetuner: Any) -> dict[str, float]:
    """What was kept on held-out queries, under Sentence Transformers' names."""
    if finetuner.base_score_ is None:
        return {}
    similarity = getattr(finetuner, "_similarity", "cosine")
    entries = [e for e in finetuner.history_ if e.get("step") == finetuner.best_step_]
    kept = entries[-1] if entries else {}  # the last is of the share that is kept
    return {
        f"{similarity}_{name}": float(value)
        for name, value in kept.items()
        if "@" in name and isinstance(value, Real)
    }


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
            f'model = SentenceTransformer("{_MODEL_ID}")',
            'queries = model.encode_query(["a query"])',
            'documents = model.encode_document(["a document"])',
        ]
    return [*lines, "```"]
