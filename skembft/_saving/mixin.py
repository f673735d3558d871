"""What a finetuner has for being saved, and what it must tell."""

from typing import Self

from sklearn.utils.validation import check_is_fitted

from skembft._saving.export import Exporter
from skembft._saving.pretrained import load, save
from skembft._saving.state import Parts, State
from skembft._utils import types


class PretrainedMixin:
    """`save_pretrained` and `from_pretrained`.

    What differs from class to class is asked by three methods: `_exporter`, `_saved`
    and `_restore`.
    """

    def save_pretrained(self, path: types.Path, *, split: bool = False) -> None:
        """Write the fitted finetuner into a directory.

        Of `EmbeddingFinetuner` and `AdapterFinetuner` it is one of Sentence
        Transformers: ``SentenceTransformer(path)`` loads it without skembft, and its
        `encode_query` and `encode_document` give what `transform` and
        `transform_documents` give. An adapter over an encoder becomes Dense modules,
        on a route of its own where only queries, or each side, are adapted. Of
        `CorpusFinetuner` it holds the moved documents and their vectors, and in
        ``path/encoder`` the finetuner that it stands over.
        :func:`skembft.load` gives back the finetuner.

        The directory is written beside `path` and then put in its place: a failure
        leaves what was there. Only what this method wrote before is replaced, and no
        directory with other files in it.

        Parameters
        ----------
        path : path
        split : bool, default=False
            Write two plain models, ``path/query`` and ``path/document``, for servers
            that do not know routes.

        Raises
        ------
        ValueError
            What modules of Sentence Transformers cannot express.
        OSError
            `path` holds something else, or cannot be written.
        """
        check_is_fitted(self)
        save(self, path, split=split)

    @classmethod
    def from_pretrained(cls, path: types.Path) -> Self:
        """Read a finetuner of this class; see :func:`skembft.load`.

        Parameters
        ----------
        path : path

        Returns
        -------
        finetuner : object
        """
        finetuner = load(path)
        if not isinstance(finetuner, cls):
            raise ValueError(
                f"{str(path)!r} holds a {type(finetuner).__name__}, not a "
                f"{cls.__name__}: use skembft.load."
            )
        return finetuner

    def _exporter(self) -> Exporter | None:
        """The `Exporter` of the model that this is; None where it is none.

        Raises a ValueError where no module of Sentence Transformers can say it.
        """
        return None

    def _saved(self) -> Parts:
        """What `_restore` needs, as `Parts`."""
        return Parts()

    def _restore(self, state: State) -> None:
        """Take over the fitted attributes that a directory's `State` tells of."""
