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

    def draws_negatives(self, data, negatives):
        """Whether single negatives are drawn, so that every query must have one."""
        if self.needs == "labels":
            return not data.labelled
        return self.needs == "triplets" or negatives == "random"


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
        name = name_of_class(loss) or loss.__name__
    else:
        return None
    if name not in supported:
        hint = nearest(name, supported)
        raise InvalidParameterError(f"Unknown loss {name!r}. {hint}")
    return name


def name_of_class(cls):
    """Return the name of a loss class or of the one it derives from, or None."""
    known = (_NAME_OF.get(base.__name__) for base in cls.__mro__)
    return next((name for name in known if name), None)


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

    name = find_loss(loss)
    spec = LOSSES[name]
    cls = loss if isinstance(loss, type) else getattr(losses, spec.class_name)
    valid = [p for p in inspect.signature(cls).parameters if p != "model"]
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
