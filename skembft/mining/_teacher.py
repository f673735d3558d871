"""Teachers: what scores pairs of a query and a document."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from skembft._models.files import ModelFiles, cannot_load, find_model
from skembft._models.kinds import check_cross_encoder
from skembft._utils.messages import shorten
from skembft._utils.types import Data, Floats, Item, Path
from skembft._utils.vectors import to_array
from skembft.encoders._store import Portions, get_store

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Pair: TypeAlias = tuple[Item, Item]
Scorer: TypeAlias = Callable[[list[Pair]], Floats]  # of distinct pairs

BATCH_SIZE = 32  # of Sentence Transformers
_PORTION = 4096  # pairs that are scored, and then kept, at a time
_MAX_BYTES = 2**22  # of the scores of a model that stay in memory: a million


def as_scorer(
    teacher: Any,
    name: str,
    *,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Path | None = None,
    load: bool = False,
) -> Scorer:
    """What gives a teacher's scores of pairs, or an error that says what it must be.

    Without `load` a model is loaded when it is needed.
    """
    if isinstance(teacher, str | os.PathLike):
        model_id = os.fspath(teacher)
        if not model_id:
            raise ValueError(f"{name} is ''; pass the name of a model or a directory.")
        model = Reranker(model_id, batch_size, device, trust_remote_code, cache_dir)
        check_cross_encoder(model_id, model.files)
        if load:
            model.load()
        return model
    if cache_dir is not None:
        raise ValueError(
            f"cache_dir needs a {name} by its name or directory: nothing tells when "
            f"a {type(teacher).__name__} has changed, so its scores are not kept."
        )
    score = getattr(teacher, "predict", teacher)
    if isinstance(teacher, type) or not callable(score):
        raise TypeError(
            f"{name} must be the name or directory of a CrossEncoder, an object with "
            "predict(pairs), or a callable that takes a list of (query, document) "
            f"pairs, got {shorten(teacher)}."
        )
    check_one_label(getattr(teacher, "num_labels", 1), name)
    return partial(_ask, score, name)


def check_one_label(n_labels: int, name: str) -> None:
    if n_labels != 1:
        raise ValueError(
            f"{name} is a classifier of {n_labels} labels, and a teacher gives one "
            "score a pair: pass a CrossEncoder with num_labels=1, or a callable that "
            "makes one number of its labels."
        )


def _ask(score: Callable[[list[Pair]], Data], name: str, pairs: list[Pair]) -> Floats:
    """Scores that a callable gives, checked."""
    scores = to_array(score(pairs), f"The scores of {name}")
    if scores.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must give numbers, got {shorten(scores.ravel()[:3].tolist())}."
        )
    if scores.shape == (len(pairs), 1):
        scores = scores[:, 0]
    if scores.shape != (len(pairs),):
        raise ValueError(
            f"{name} gave an array of shape {scores.shape} for {len(pairs)} pairs: it "
            "must give one score a pair."
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        query, document = pairs[bad[0]]
        raise ValueError(
            f"{name} gave {len(bad)} score(s) that are NaN or infinite, first "
            f"{scores[bad[0]]} for the query {shorten(query)} and the document "
            f"{shorten(document)}."
        )
    return scores.astype(np.float64)


@dataclass(frozen=True)
class Reranker:
    """A CrossEncoder by name, which is loaded when a pair was not scored before."""

    model_id: str
    batch_size: int
    device: str | None
    trust_remote_code: bool
    cache_dir: Path | None

    def __call__(self, pairs: list[Pair]) -> Floats:
        """Scores of distinct pairs, each of which is scored once and kept."""
        by_name = {_name_of(pair): pair for pair in pairs}
        scores = get_store(self._key).get(
            list(by_name),
            lambda new: self._score(new, by_name),
            max_bytes=_MAX_BYTES,
            cache_dir=self.cache_dir,
        )
        return scores[:, 0].astype(np.float64)

    @cached_property
    def files(self) -> ModelFiles:
        files = find_model(self.model_id)
        if files is None:
            self.load()
            files = find_model(self.model_id, loaded=True)
        if files is None:
            raise cannot_load(self.model_id, "its files are not in the hub's cache.")
        return files

    def load(self) -> CrossEncoder:
        return self._model

    @cached_property
    def _model(self) -> CrossEncoder:
        from skembft._models.reranking import load_cross_encoder

        model = load_cross_encoder(self.model_id, self.device, self.trust_remote_code)
        check_one_label(model.num_labels, repr(self.model_id))
        return model

    @property
    def _key(self) -> tuple[str, str]:
        trusted = self.trust_remote_code
        return "scores of pairs", self.files.fingerprint(trust_remote_code=trusted)

    def _score(self, names: list[str], by_name: dict[str, Pair]) -> Portions:
        from skembft._models.reranking import predict

        score = partial(predict, self.load(), batch_size=self.batch_size)
        for start in range(0, len(names), _PORTION):
            portion = names[start : start + _PORTION]
            scores = _ask(score, self.model_id, [by_name[name] for name in portion])
            yield portion, scores[:, None].astype(np.float32)


def _name_of(pair: Pair) -> str:
    """A name of fixed length: the store keeps it in memory beside the score."""
    query, document = map(str, pair)
    text = f"{len(query)} {query}{document}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
