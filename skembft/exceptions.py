"""Categories of warnings, to filter them by."""

__all__ = ["MissingDocumentsWarning", "NoGainWarning"]


class MissingDocumentsWarning(UserWarning):
    """Documents of y are not in the corpus."""


class NoGainWarning(UserWarning):
    """Training brought no gain in validation that is more than its noise."""
