"""The finetuners that a directory may hold; each class enters itself."""

_finetuners = {}


def saved_by_name(cls):
    """Class decorator: let directories name this finetuner, and `load` make it."""
    _finetuners[cls.__name__] = cls
    return cls


def finetuners():
    """{name: class} of all that have entered."""
    return dict(_finetuners)
