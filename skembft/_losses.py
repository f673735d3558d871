"""The table of losses: what each needs, and how Sentence Transformers builds it."""

import inspect
from dataclasses import dataclass, field

from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils import nearest, shorten


@dataclass(frozen=True)
class LossSpec:
    """What a loss needs.

    Attributes
    ----------
    class_name : str
        Name of the class in `sentence_transformers.losses`.
    needs : {"positives", "triplets", "labels"}
        Pairs of a query and a relevant document (explicit negatives are used where
        there are some), triplets with exactly one negative, or labelled pairs.
    binary : bool
        Whether labels are 0 or 1 (a label above 0 counts as 1).
    defaults : dict
        Arguments whose default differs from the library's, with the reason.
    """

    class_name: str
    needs: str
    binary: bool = False
    defaults: dict = field(default_factory=dict)


LOSSES = {
    "multiple_negatives_ranking": LossSpec("MultipleNegativesRankingLoss", "positives"),
    # the library's margin of 5 exceeds the largest distance of unit vectors, 2
    "triplet": LossSpec("TripletLoss", "triplets", defaults={"triplet_margin": 0.3}),
    "cosine_similarity": LossSpec("CosineSimilarityLoss", "labels"),
    "contrastive": LossSpec("ContrastiveLoss", "labels", binary=True),
}
_NAME_OF = {spec.class_name: name for name, spec in LOSSES.items()}


def find_loss(loss, supported=tuple(LOSSES)):
    """Return the name of a loss given by name or class, or None for another callable.

    Raises
    ------
    InvalidParameterError
        An unknown name or class; the message names the nearest valid ones.
    """
    if isinstance(loss, str):
        name = loss
    elif isinstance(loss, type):
        name = _NAME_OF.get(loss.__name__, loss.__name__)
    else:
        return None
    if name not in supported:
        raise InvalidParameterError(
            f"Unknown loss {name!r}. {nearest(name, supported)}"
        )
    return name


def loss_arguments(name, loss_params):
    """Merge `loss_params` into our defaults, refusing names the loss does not have."""
    from sentence_transformers.sentence_transformer import losses

    spec = LOSSES[name]
    signature = inspect.signature(getattr(losses, spec.class_name))
    valid = [p for p in signature.parameters if p != "model"]
    check_argument_names(loss_params, valid, f"loss_params of the loss {name!r}")
    return {**spec.defaults, **(loss_params or {})}


def check_argument_names(params, valid, what):
    """Raise an error naming the nearest valid names unless all names are valid."""
    for key in params or {}:
        if key not in valid:
            raise InvalidParameterError(
                f"{shorten(key)} is not among the {what}. {nearest(key, valid)}"
            )


def check_loss(name, loss_params):
    """Raise an InvalidParameterError where the loss refuses its arguments."""
    try:
        build_loss(name, None, loss_params)
    except InvalidParameterError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"loss_params of {name!r}: {error}") from error


def build_loss(name, model, loss_params):
    """Build the Sentence Transformers loss `name` for a model (or for None)."""
    from sentence_transformers.sentence_transformer import losses

    loss_class = getattr(losses, LOSSES[name].class_name)
    return loss_class(model, **loss_arguments(name, loss_params))
