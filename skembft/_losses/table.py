"""The table of losses: what each needs."""

import warnings
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, overload

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.utils._param_validation import InvalidParameterError

from skembft._data.relevance import LabelRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._utils.messages import nearest, shorten
from skembft._utils.types import Ints, Loss, Params

Needs = (
    Literal["positives", "triplets", "labels", "scores", "targets"]
    | Literal["pairs", "classes", "texts", "damaged", "loss"]
)

_WRAPPERS = ("matryoshka", "matryoshka2d", "adaptive_layer")
DEFAULT_LOSS = "multiple_negatives_ranking"  # that a wrapper wraps


@dataclass(frozen=True)
class LossSpec:
    """What a loss needs.

    Attributes
    ----------
    class_name : str
        Name of the class in `sentence_transformers.losses`.
    needs : str
        "positives": pairs of a query and a relevant document, whose negatives are the
        other documents of the batch and explicit ones; "triplets": with exactly one
        negative; "labels": labelled pairs; "scores": teacher scores, that is graded
        documents, at least two a query; "targets": pairs whose document's vector is
        the target; "pairs": pairs and nothing else; "classes": classes of texts;
        "texts": documents; "damaged": documents, and the same with words deleted;
        "loss": what the loss that it wraps needs.
    binary : bool
        Whether labels are 0 or 1 (a label above 0 counts as 1).
    categories : bool
        Whether labels are names of categories.
    labels_differ : bool
        Whether labels that are all the same teach nothing.
    cosines : bool
        Whether labels are what cosines are to be.
    max_negatives : int or None
        How many explicit negatives a row of pairs can have; None: any number.
    compares_rows : bool
        Whether a batch of one row teaches nothing ("positives" with negatives aside).
    whole_model : bool
        Whether it needs the model itself, so that embeddings are not enough.
    wrapped_by : tuple of str
        Losses that can wrap it.
    one_process : bool
        Whether several processes are refused, as they would not train the model of one:
        it computes with the texts of a batch, or has weights of its own, which the
        trainer of several leaves alone.
    shared_with : dict
        Arguments with which it looks at the batches of all processes by itself; where
        there are none, it is given the vectors of all.
    defaults : dict
        Arguments whose default differs from the library's, with the reason.
    alias : tuple of (str, dict) or None
        Class that is built instead, as the library would like to drop this one, and
        its fixed arguments.
    """

    class_name: str
    needs: Needs
    binary: bool = False
    categories: bool = False
    labels_differ: bool = False
    cosines: bool = False
    max_negatives: int | None = None
    compares_rows: bool = False
    whole_model: bool = False
    wrapped_by: tuple[str, ...] = _WRAPPERS
    one_process: bool = False
    shared_with: Params = field(default_factory=dict)
    defaults: Params = field(default_factory=dict)
    alias: tuple[str, Params] | None = None

    @property
    def name(self) -> str:
        return _NAME_OF[self.class_name]

    @property
    def in_batch(self) -> bool:
        """Whether the other documents of a batch are taken as not relevant."""
        return self.needs in ("positives", "pairs")

    def draws_negatives(self, data: RetrievalData, negatives: str) -> bool:
        """Whether single negatives are drawn, so that every query must have one."""
        if self.needs == "labels":
            return not data.labelled
        if self.needs == "positives":
            return negatives == "random" and self.max_negatives != 0
        return self.needs == "triplets"

    def takes_zeros(self, data: RetrievalData) -> bool:
        """Whether data without any relevant document will do."""
        return self.needs in ("texts", "damaged") or (
            self.needs == "labels" and data.labelled
        )

    def check_data(self, data: RetrievalData) -> None:
        """Raise an error where the data lack what cannot be made."""
        if self.needs == "scores" and not data.has_scores:
            raise ValueError(
                f"loss={self.name!r} learns from teacher scores, and no query has two "
                "documents of different grades: give y as {document: score} dicts, as "
                "skembft.mining.score_pairs makes them, or labelled pairs with several "
                "documents a query."
            )
        labels = data.example_grade
        if self.labels_differ and data.labelled and np.ptp(labels) == 0:
            raise ValueError(
                f"loss={self.name!r} learns from labels that differ, and all "
                f"{len(labels)} are {labels[0]:g}."
            )
        largest = np.abs(labels).max(initial=0)
        if self.cosines and data.labelled and largest > 1:
            warnings.warn(
                f"loss={self.name!r} brings cosines to the labels, and these reach "
                f"{largest:g}: no cosine is above 1. Divide them by the end of their "
                "scale, as 0 to 5 by 5.",
                UserWarning,
                stacklevel=2,
            )
        of_texts = not isinstance(data.relevance, LabelRelevance)
        if self.needs == "classes" and of_texts and not _several_classes(data):
            raise ValueError(
                f"loss={self.name!r} tells classes of texts apart, and there is one "
                "class only: relevant documents in common connect all queries. Pass "
                "queries with other documents, or use another loss."
            )

    def check_batch(self, data: RetrievalData, negatives: str, batch_size: int) -> None:
        """Raise an error where batches of one row would teach nothing."""
        if batch_size > 1:
            return
        if self.needs == "positives" and self.max_negatives != 0:
            if negatives == "batch" and not data.n_negatives:
                raise InvalidParameterError(
                    "batch_size=1 leaves no negatives in a batch: use a larger "
                    "batch_size, other negatives=, or explicit negatives."
                )
        elif self.compares_rows:
            raise InvalidParameterError(
                f"batch_size=1 leaves nothing to compare: loss={self.name!r} learns "
                "from the differences of the rows of a batch. Use a larger batch_size."
            )


def query_classes(data: RetrievalData) -> Ints:
    """The class of every query: relevant documents in common connect queries."""
    positive = data.judged.positive
    graph = sparse.block_array([[None, positive], [positive.T, None]])
    _, classes = connected_components(graph, directed=False)
    return classes[: data.n_queries]


def _several_classes(data: RetrievalData) -> bool:
    return len(np.unique(query_classes(data)[data.answerable])) > 1


class _Wrapping(TypedDict):
    whole_model: bool
    wrapped_by: tuple[str, ...]


class _Sharing(TypedDict):
    shared_with: Params


class _OfClasses(TypedDict):
    needs: Needs
    compares_rows: bool


# the library's margin of 5 exceeds the largest distance of unit vectors, 2
_MARGIN = {"margin": 0.3}
_SYMMETRIC: Params = {
    "directions": ("query_to_doc", "doc_to_query"),
    "partition_mode": "per_direction",
}
# its gradients come from a hook, when a wrapper has put the model's layers back
_CACHED: _Wrapping = {"whole_model": True, "wrapped_by": ("matryoshka",)}
_SHARED: _Sharing = {"shared_with": {"gather_across_devices": True}}
# it compares the queries of its own process only
_GUIDED: _Sharing = {
    "shared_with": {"gather_across_devices": True, "contrast_anchors": False}
}
# has a second model, a head or a decoder of the model's own width
_UNWRAPPED: _Wrapping = {"whole_model": True, "wrapped_by": ()}
_OF_CLASSES: _OfClasses = {"needs": "classes", "compares_rows": True}
LOSSES = {
    "multiple_negatives_ranking": LossSpec(
        "MultipleNegativesRankingLoss", "positives", **_SHARED
    ),
    "multiple_negatives_symmetric_ranking": LossSpec(
        "MultipleNegativesSymmetricRankingLoss",
        "positives",
        alias=("MultipleNegativesRankingLoss", _SYMMETRIC),
        **_SHARED,
    ),
    "cached_multiple_negatives_ranking": LossSpec(
        "CachedMultipleNegativesRankingLoss", "positives", **_CACHED, **_SHARED
    ),
    "cached_multiple_negatives_symmetric_ranking": LossSpec(
        "CachedMultipleNegativesSymmetricRankingLoss",
        "positives",
        alias=("CachedMultipleNegativesRankingLoss", _SYMMETRIC),
        **_CACHED,
        **_SHARED,
    ),
    "gist_embed": LossSpec(
        "GISTEmbedLoss", "positives", max_negatives=1, whole_model=True, **_GUIDED
    ),
    "cached_gist_embed": LossSpec(
        "CachedGISTEmbedLoss", "positives", **_CACHED, **_GUIDED
    ),
    "mega_batch_margin": LossSpec(
        "MegaBatchMarginLoss",
        "positives",
        max_negatives=0,
        compares_rows=True,
        **_CACHED,
    ),
    "triplet": LossSpec("TripletLoss", "triplets", defaults={"triplet_margin": 0.3}),
    "cosine_similarity": LossSpec("CosineSimilarityLoss", "labels", cosines=True),
    "cosent": LossSpec("CoSENTLoss", "labels", labels_differ=True, compares_rows=True),
    "angle": LossSpec("AnglELoss", "labels", labels_differ=True, compares_rows=True),
    "contrastive": LossSpec("ContrastiveLoss", "labels", binary=True),
    "online_contrastive": LossSpec(
        "OnlineContrastiveLoss", "labels", binary=True, compares_rows=True
    ),
    "softmax": LossSpec(
        "SoftmaxLoss",
        "labels",
        categories=True,
        labels_differ=True,
        whole_model=True,
        wrapped_by=("adaptive_layer",),
        one_process=True,
    ),
    "contrastive_tension": LossSpec(
        "ContrastiveTensionLoss",
        "labels",
        binary=True,
        one_process=True,
        **_UNWRAPPED,
    ),
    "margin_mse": LossSpec("MarginMSELoss", "scores"),
    "distill_kl_div": LossSpec("DistillKLDivLoss", "scores"),
    "mse": LossSpec("MSELoss", "targets"),
    "embed_distill": LossSpec("EmbedDistillLoss", "targets"),
    "global_orthogonal_regularization": LossSpec(
        "GlobalOrthogonalRegularizationLoss",
        "pairs",
        max_negatives=0,
        compares_rows=True,
        wrapped_by=(),  # it is a dict of two terms, which wrappers cannot add up
    ),
    "batch_all_triplet": LossSpec(
        "BatchAllTripletLoss", defaults=_MARGIN, **_OF_CLASSES
    ),
    "batch_hard_triplet": LossSpec(
        "BatchHardTripletLoss", defaults=_MARGIN, **_OF_CLASSES
    ),
    "batch_hard_soft_margin_triplet": LossSpec(
        "BatchHardSoftMarginTripletLoss", **_OF_CLASSES
    ),
    "batch_semi_hard_triplet": LossSpec(
        "BatchSemiHardTripletLoss", defaults=_MARGIN, **_OF_CLASSES
    ),
    "contrastive_tension_in_batch_negatives": LossSpec(
        "ContrastiveTensionLossInBatchNegatives",
        "texts",
        compares_rows=True,
        one_process=True,
        **_UNWRAPPED,
    ),
    "denoising_auto_encoder": LossSpec(
        "DenoisingAutoEncoderLoss", "damaged", one_process=True, **_UNWRAPPED
    ),
    "matryoshka": LossSpec(
        "MatryoshkaLoss", "loss", whole_model=True, wrapped_by=("adaptive_layer",)
    ),
    "matryoshka2d": LossSpec("Matryoshka2dLoss", "loss", **_UNWRAPPED),
    "adaptive_layer": LossSpec("AdaptiveLayerLoss", "loss", **_UNWRAPPED),
}
VECTOR_LOSSES = tuple(n for n, spec in LOSSES.items() if not spec.whole_model)
_NAME_OF = {spec.class_name: name for name, spec in LOSSES.items()}


@overload
def find_loss(loss: str | type, supported: Collection[str]) -> str: ...
@overload
def find_loss(loss: Loss, supported: Collection[str]) -> str | None: ...
def find_loss(loss: Loss, supported: Collection[str]) -> str | None:
    """Return the name of a loss given by name or class, or None for another callable.

    Raises
    ------
    InvalidParameterError
        An unknown name or class (the message names the nearest valid ones), or an
        instance.
    """
    if isinstance(loss, str):
        name = loss
    elif isinstance(loss, type):
        known = name_of_class(loss, supported) or name_of_class(loss, LOSSES)
        name = known or loss.__name__
    elif hasattr(loss, "forward"):
        raise InvalidParameterError(
            f"loss is an instance of {type(loss).__name__}, which holds a model of its "
            "own: pass the class, with its arguments as loss_params, or a callable "
            "model -> loss."
        )
    else:
        return None
    if name not in supported:
        hint = nearest(name, supported)
        if name in LOSSES:
            raise InvalidParameterError(
                f"loss={name!r} is a loss of EmbeddingFinetuner only: it needs the "
                f"model itself, not its embeddings. {hint}"
            )
        raise InvalidParameterError(f"Unknown loss {name!r}. {hint}")
    return name


def name_of_class(cls: type, supported: Collection[str]) -> str | None:
    """Return the name of a loss class or of the one it derives from, or None."""
    names = (_NAME_OF.get(base.__name__) for base in cls.__mro__)
    return next((name for name in names if name in supported), None)


def spec_of(name: str, loss_params: Params | None) -> LossSpec:
    """Return what a loss needs: of a wrapper, what the loss that it wraps needs."""
    if LOSSES[name].needs != "loss":
        return LOSSES[name]
    loss, loss_params = wrapped_loss(loss_params)
    return spec_of(find_loss(loss, LOSSES), loss_params)


def wrapped_loss(loss_params: Params | None) -> tuple[Any, Params | None]:
    """Return the loss that a wrapper wraps, and its `loss_params`."""
    params = loss_params or {}
    return params.get("loss", DEFAULT_LOSS), params.get("loss_params")


def check_wrapping(name: str, wrappers: Iterable[str]) -> None:
    """Raise an error unless each of some wrappers can wrap a loss."""
    for wrapper in wrappers:
        if wrapper not in LOSSES[name].wrapped_by:
            valid = [n for n, spec in LOSSES.items() if wrapper in spec.wrapped_by]
            raise InvalidParameterError(
                f"loss={wrapper!r} cannot wrap {name!r}. {nearest(name, valid)}"
            )


def check_argument_names(
    params: Params | None, valid: Collection[str], what: str
) -> None:
    """Raise an error naming the nearest valid names unless all names are valid."""
    for key in params or {}:
        if key not in valid:
            raise InvalidParameterError(
                f"{shorten(key)} is not among the {what}. {nearest(key, valid)}"
            )
