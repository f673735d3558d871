"""What vectors of a model are compared by; nothing here imports torch."""

from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils.types import Similarity


def similarity_of(name: str | None, *, unit: bool) -> Similarity:
    """Return what ranks as the similarity function of a model does.

    Parameters
    ----------
    name : {"cosine", "dot", "euclidean", "manhattan"} or None
        The model's `similarity_fn_name`; None is the library's default, the cosine.
    unit : bool
        Whether the model's vectors have unit length: then three of them rank alike.

    Raises
    ------
    InvalidParameterError
        A distance, by which nothing here ranks.
    """
    if name == "dot" and not unit:
        return "dot"
    if name in ("cosine", "dot", None) or (unit and name == "euclidean"):
        return "cosine"
    raise InvalidParameterError(
        f"normalize=False, and the model compares vectors by the {name} distance: here "
        "they are ranked by the cosine, or by the dot product. Pass normalize=True for "
        "the cosine."
    )
