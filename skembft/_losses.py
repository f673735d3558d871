"""The table of losses: what each needs, and how Sentence Transformers builds it."""

import inspect
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils import nearest, shorten


@dataclass(frozen=True)
class LossSpec:
    """What a loss needs.

    Attributes
    ----------
    class_name : str
        Name of the class in `sentence_transformers.losses`.
    needs : str
        "positives": pairs of a query and a relevant document (explicit negatives are
        used where there are some); "triplets": with exactly one negative; "labels":
        labelled pairs; "scores": teacher scores, that is graded documents, at least
        two a query; "targets": pairs whose document's vector is the query's target;
        "pairs": pairs and nothing else; "classes": class labels.
    binary : bool
        Whether labels are 0 or 1 (a label above 0 counts as 1).
    defaults : dict
        Arguments whose default differs from the library's, with the reason.
    """

    class_name: str
    needs: str
    binary: bool = False
    defaults: dict = field(default_factory=dict)

    def draws_negatives(self, data, negatives):
        """Whether single negatives are drawn, so that every query must have one."""
        if self.needs == "labels":
            return not data.labelled
        if self.needs == "positives":
            return negatives == "random"
        return self.needs == "triplets"


# the library's margin of 5 exceeds the largest distance of unit vectors, 2
_MARGIN = {"margin": 0.3}
LOSSES = {
    "multiple_negatives_ranking": LossSpec("MultipleNegativesRankingLoss", "positives"),
    "multiple_negatives_symmetric_ranking": LossSpec(
        "MultipleNegativesSymmetricRankingLoss", "positives"
    ),
    "triplet": LossSpec("TripletLoss", "triplets", defaults={"triplet_margin": 0.3}),
    "cosine_similarity": LossSpec("CosineSimilarityLoss", "labels"),
    "cosent": LossSpec("CoSENTLoss", "labels"),
    "angle": LossSpec("AnglELoss", "labels"),
    "contrastive": LossSpec("ContrastiveLoss", "labels", binary=True),
    "online_contrastive": LossSpec("OnlineContrastiveLoss", "labels", binary=True),
    "margin_mse": LossSpec("MarginMSELoss", "scores"),
    "distill_kl_div": LossSpec("DistillKLDivLoss", "scores"),
    "mse": LossSpec("MSELoss", "targets"),
    "embed_distill": LossSpec("EmbedDistillLoss", "targets"),
    "global_orthogonal_regularization": LossSpec(
        "GlobalOrthogonalRegularizationLoss", "pairs"
    ),
    "batch_all_triplet": LossSpec("BatchAllTripletLoss", "classes", defaults=_MARGIN),
    "batch_hard_triplet": LossSpec("BatchHardTripletLoss", "classes", defaults=_MARGIN),
    "batch_hard_soft_margin_triplet": LossSpec(
        "BatchHardSoftMarginTripletLoss", "classes"
    ),
    "batch_semi_hard_triplet": LossSpec(
        "BatchSemiHardTripletLoss", "classes", defaults=_MARGIN
    ),
}
_NAME_OF = {spec.class_name: name for name, spec in LOSSES.items()}


@dataclass(frozen=True)
class InfoNCEOptions:
    """Options of InfoNCE: those of MultipleNegativesRankingLoss, with its rules."""

    scale: float = 20.0
    directions: tuple = ("query_to_doc",)
    partition_mode: str = "joint"
    hardness_mode: str | None = None
    hardness_strength: float = 0.0

    @classmethod
    def of(cls, name, loss_params):
        """Check `loss_params` of an InfoNCE loss, or raise InvalidParameterError."""
        fixed = {}
        if name == "multiple_negatives_symmetric_ranking":
            fixed = {
                "directions": ("query_to_doc", "doc_to_query"),
                "partition_mode": "per_direction",
            }
        valid = [n for n in cls.__dataclass_fields__ if n not in fixed]
        check_argument_names(loss_params, valid, f"loss_params of the loss {name!r}")
        options = cls(**{**(loss_params or {}), **fixed})
        options._check()
        return options

    def _check(self):
        for name, kind in (
            ("scale", "a positive number"),
            ("hardness_strength", "a number, 0 or more"),
        ):
            value = getattr(self, name)
            is_number = isinstance(value, Real) and np.isfinite(value) and value >= 0
            if not is_number or (name == "scale" and value == 0):
                raise InvalidParameterError(
                    f"The {name} of the loss must be {kind}, got {value!r}."
                )
        names = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
        directions = self.directions
        known = isinstance(directions, list | tuple) and set(directions) <= set(names)
        if not known or "query_to_doc" not in directions:
            raise InvalidParameterError(
                f"directions must be a tuple of names among {names}, 'query_to_doc' "
                f"being one of them, got {directions!r}."
            )
        modes = {
            "partition_mode": ("joint", "per_direction"),
            "hardness_mode": (
                None,
                "in_batch_negatives",
                "hard_negatives",
                "all_negatives",
            ),
        }
        for name, valid in modes.items():
            if getattr(self, name) not in valid:
                raise InvalidParameterError(
                    f"{name} must be one of {valid}, got {getattr(self, name)!r}."
                )
        alike = {"query_to_query", "doc_to_doc"} & set(directions)
        if self.partition_mode == "per_direction" and alike:
            raise InvalidParameterError(
                f"partition_mode='per_direction' does not go with {sorted(alike)}, "
                "whose candidates never hold the positive pair; use 'joint'."
            )


def find_loss(loss, supported):
    """Return the name of a loss given by name or class, or None for another callable.

    Raises
    ------
    InvalidParameterError
        An unknown name or class; the message names the nearest valid ones.
    """
    if isinstance(loss, str):
        name = loss
    elif isinstance(loss, type):
        name = name_of_class(loss, supported) or loss.__name__
    else:
        return None
    if name not in supported:
        hint = nearest(name, supported)
        raise InvalidParameterError(f"Unknown loss {name!r}. {hint}")
    return name


def name_of_class(cls, supported):
    """Return the name of a loss class or of the one it derives from, or None."""
    names = (_NAME_OF.get(base.__name__) for base in cls.__mro__)
    return next((name for name in names if name in supported), None)


def check_argument_names(params, valid, what):
    """Raise an error naming the nearest valid names unless all names are valid."""
    for key in params or {}:
        if key not in valid:
            raise InvalidParameterError(
                f"{shorten(key)} is not among the {what}. {nearest(key, valid)}"
            )


def build_loss(loss, model, loss_params):
    """Build a loss given by name or class for a model (or for None).

    `loss_params` are merged into our defaults; names it does not have are refused.
    """
    from sentence_transformers.sentence_transformer import losses

    name = find_loss(loss, LOSSES)
    spec = LOSSES[name]
    cls = loss if isinstance(loss, type) else getattr(losses, spec.class_name)
    # projection_dim makes a layer that nothing here would train
    hidden = {"model", "projection_dim"}
    valid = [p for p in inspect.signature(cls).parameters if p not in hidden]
    check_argument_names(loss_params, valid, f"loss_params of the loss {name!r}")
    return cls(model, **{**spec.defaults, **(loss_params or {})})


def check_loss(loss, loss_params):
    """Raise an InvalidParameterError where the loss refuses its arguments."""
    try:
        build_loss(loss, None, loss_params)
    except InvalidParameterError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"loss_params of {loss!r}: {error}") from error
