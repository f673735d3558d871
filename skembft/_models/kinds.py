"""Which models are bi-encoders, and which score pairs; nothing here imports torch.

Of others Sentence Transformers makes one in silence: it takes their transformer
and the mean of its tokens, or a random head.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skembft._models.files import ModelFiles, cannot_load
from skembft._utils.messages import shorten

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_KINDS = {
    "SparseEncoder": "a SparseEncoder (of sparse vectors, such as SPLADE)",
    "CrossEncoder": "a CrossEncoder (a reranker, which reads pairs of texts)",
    "MultiVectorEncoder": "a MultiVectorEncoder (a vector a token, such as ColBERT)",
}
_OTHER_NAMES = {"ColBERT": "MultiVectorEncoder"}  # in directories of PyLate
# what models without a type have modules of
_PACKAGES = {
    "sentence_transformers.sparse_encoder.": "SparseEncoder",
    "sentence_transformers.cross_encoder.": "CrossEncoder",
    "sentence_transformers.multi_vector_encoder.": "MultiVectorEncoder",
    "pylate.": "MultiVectorEncoder",
}
# modules that leave a vector a token
_OF_TOKENS = {"Transformer", "Dropout", "WordWeights", "WeightedLayerPooling"}
# heads of transformers that say something of a text, or of two, and embed none
_HEADS = re.compile(
    r".*For(SequenceClassification|TokenClassification|QuestionAnswering"
    r"|MultipleChoice|NextSentencePrediction)"
)
# those that a CrossEncoder is made of, if modules.json does not say
_SCORES_PAIRS = re.compile(r".*For(SequenceClassification|CausalLM)")
_LATE = re.compile(r"HF_ColBERT|.*ForRetrieval")
_OF_OTHERS = {".onnx", ".gguf", ".h5", ".msgpack", ".xml", ".ot"}  # torch reads none


def check_bi_encoder(model_id: str, files: ModelFiles) -> None:
    """Raise an OSError that names what a model is, where it is no bi-encoder."""
    if files.config().get("model_type") == "model2vec" and not files.modules():
        raise OSError(
            f"{model_id!r} is a model2vec model without modules.json: save "
            "SentenceTransformer(modules=[StaticEmbedding.from_model2vec(path)]) and "
            "pass the directory of that."
        )
    if (kind := _kind_of(files)) is not None:
        raise OSError(
            f"{model_id!r} is {kind}. skembft fine-tunes bi-encoders, which make one "
            "vector of a text: pass the name or directory of a SentenceTransformer. "
            "To start from its transformer all the same, save "
            "SentenceTransformer(modules=[Transformer(path), Pooling(width)]) and pass "
            "the directory of that."
        )
    if _stays_with_tokens(files):
        raise OSError(
            f"{model_id!r} has no module that makes one vector of the vectors of a "
            "text's tokens: add a Pooling, and save "
            "SentenceTransformer(modules=[Transformer(path), Pooling(width)])."
        )
    if not files.modules() and files.revision is None:
        _check_plain(model_id, files)


def _stays_with_tokens(files: ModelFiles) -> bool:
    """Whether all modules are known, and none pools what a Transformer makes."""
    modules = files.modules()
    names = [module["type"].rpartition(".")[2] for module in modules]
    if not names or names[0] != "Transformer" or not set(names) <= _OF_TOKENS:
        return False
    path = os.path.join(modules[0]["path"], "sentence_bert_config.json")
    settings = files.config(path)
    return settings.get("module_output_name", "token_embeddings") == "token_embeddings"


def check_cross_encoder(model_id: str, files: ModelFiles) -> None:
    """Raise an OSError where a model has no head that was trained to score pairs.

    Sentence Transformers would give it a random one.
    """
    kind = _kind_of(files)
    names = files.config().get("architectures") or []
    is_plain = not files.modules() and any(map(_SCORES_PAIRS.fullmatch, names))
    if kind != _KINDS["CrossEncoder"] and not is_plain:
        raise OSError(
            f"{model_id!r} is {kind or 'no CrossEncoder'}: its files hold no head that "
            "was trained to score pairs, and a random one would teach noise. Pass the "
            "name or directory of a CrossEncoder, or a callable on pairs."
        )


def _kind_of(files: ModelFiles) -> str | None:
    """What a model is, where it is no bi-encoder."""
    kind = files.config("config_sentence_transformers.json").get("model_type")
    if kind is not None:
        kind = _OTHER_NAMES.get(kind, kind)
        return None if kind == "SentenceTransformer" else _KINDS.get(kind, f"a {kind}")
    for module in files.modules():
        for package, kind in _PACKAGES.items():
            if module["type"].startswith(package):
                return _KINDS[kind]
    if files.modules():
        return None
    for name in files.config().get("architectures") or []:
        if _LATE.fullmatch(name):
            return _KINDS["MultiVectorEncoder"]
        if _HEADS.fullmatch(name):
            return f"a reranker or classifier ({name})"
    return None


def _check_plain(model_id: str, files: ModelFiles) -> None:
    """Refuse a directory without modules.json that is none of transformers either."""
    if (files.root / "config_sentence_transformers.json").is_file():
        raise cannot_load(
            model_id,
            "it holds config_sentence_transformers.json and no modules.json, which "
            "says how vectors are made.",
        )
    # the second is of low-rank weights, and names their base
    names = ("config.json", "adapter_config.json")
    if not any((files.root / name).is_file() for name in names):
        raise cannot_load(model_id, "it holds neither modules.json nor config.json.")


def other_weights(model_id: str) -> str:
    """What a directory, if it is one, holds of weights that torch does not read."""
    paths = sorted(Path(model_id).rglob("*"))
    names = [path.name for path in paths if path.suffix in _OF_OTHERS]
    if not names:
        return ""
    return (
        f" Of weights there is {shorten(names)}; skembft reads safetensors, and a "
        "SentenceEncoder with backend='onnx' or 'openvino' what is of these."
    )


def check_vocabulary(model_id: str, model: SentenceTransformer) -> None:
    """Refuse a tokenizer that transformers made where a model came without its own."""
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if hasattr(tokenizer, "all_special_tokens") and len(tokenizer) < 100:
        if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
            reason = "it has no vocabulary, such as tokenizer.json: all texts would be"
            raise cannot_load(model_id, f"{reason} one.")
