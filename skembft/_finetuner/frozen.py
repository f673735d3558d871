"""What finetuners over a frozen encoder share: opening, checking, pickling it."""

import os
import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import InvalidParameterError

from skembft._data.containers import labels_of, to_list, to_rows
from skembft._data.retrieval_data import RetrievalData
from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.trainer import Trainer
from skembft._finetuner.validation import FEWEST_SHARED
from skembft._saving.params import encoder_to_json
from skembft._saving.state import Parts, State
from skembft._utils.estimators import thawed
from skembft._utils.types import Data, Ints, ItemKind
from skembft.encoders._base import BaseEncoder
from skembft.encoders._sentence import SentenceEncoder
from skembft.exceptions import MissingDocumentsWarning
from skembft.metrics._scoring import item_kind


class FrozenFinetuner(BaseFinetuner):
    """Subclasses have the parameter `encoder` and keep what they used as `encoder_`.

    An encoder that is an unfitted finetuner is cloned and fitted first: on the rows of
    the queries that validation does not hold out, and again on all rows for the refit.
    """

    _encoder_checked = True  # not after unpickling
    # queries of which validation_fraction="auto" holds out each once: see "Situations"
    # in docs/benchmarks.md
    _most_in_folds = 1_000

    encoder: Any  # in any form that `_check_encoder` lets pass
    encoder_: Any
    _encoder_fingerprint: str | None

    def _check_settings(self) -> None:
        super()._check_settings()
        self._check_encoder()

    def _check_encoder(self) -> None:
        encoder = self.encoder
        if encoder is None or isinstance(encoder, str | os.PathLike):
            return
        if "nudge_m" == getattr(encoder, "method", None):
            raise InvalidParameterError(
                "encoder is a CorpusFinetuner with method='nudge_m', whose vectors "
                f"rank by dot product, and {type(self).__name__} works on cosines: "
                "use method='nudge_n'."
            )
        if not hasattr(encoder, "transform") or not hasattr(
            encoder, "transform_documents"
        ):
            is_client = callable(encoder) or any(
                hasattr(encoder, name)
                for name in ("embed_documents", "get_text_embedding_batch", "encode")
            )
            hint = (
                "wrap it, encoder=APIEncoder(client), or save a Sentence Transformers "
                "model, model.save_pretrained('path'), and pass encoder='path'"
                if is_client
                else "pass the name or directory of a model, a SentenceEncoder, a "
                "PrecomputedEncoder, or None when X is vectors"
            )
            raise InvalidParameterError(
                f"encoder is a {type(encoder).__name__} without transform and "
                f"transform_documents; {hint}."
            )

    # ---- fit

    def _open_encoder(self) -> Any:
        """The encoder that a fit uses; finetuners among them are fitted later."""
        encoder = self.encoder
        if isinstance(encoder, str | os.PathLike):
            return SentenceEncoder(os.fspath(encoder))
        # what is not ours may have been fitted, and is used as it is
        ours = isinstance(encoder, BaseEncoder | BaseFinetuner | FrozenEstimator)
        return clone(encoder) if ours else encoder

    def _in_folds(self, n_queries: int, most: int) -> bool:
        return (
            self.validation_fraction == "auto"
            and self.refit  # of several states none is better than the others
            and not isinstance(self.encoder, BaseFinetuner)  # which would be fitted
            and FEWEST_SHARED <= n_queries <= min(self._most_in_folds, most)
        )

    def _fit_encoder(
        self,
        trainer: Any,  # one that has an `encoder`
        data: RetrievalData,
        X: Data,
        y: Data,
        sample_weight: Data,
        corpus: Data,
        queries: Ints | None = None,
    ) -> bool:
        if not isinstance(self.encoder, BaseFinetuner):
            return False
        if queries is not None:
            rows = np.flatnonzero(np.isin(data.row_query, queries))
            if item_kind(self.encoder) != "vector":
                y, _ = labels_of(X, y)
            X, y = self._select(X, rows, "X"), self._select(y, rows, "y")
            if sample_weight is not None:
                sample_weight = np.asarray(sample_weight)[rows]
        encoder = self._seeded(trainer)
        with warnings.catch_warnings():
            # it is told of all rows
            warnings.simplefilter("ignore", MissingDocumentsWarning)
            trainer.encoder = encoder.fit(X, y, sample_weight, corpus=corpus)
        return True

    def _seeded(self, trainer: Any) -> Any:
        """A clone of the encoder, with a `random_state` where it has none.

        The same in both fits, of which the first is validated.
        """
        encoder = clone(self.encoder)
        unset = [
            name
            for name, value in encoder.get_params().items()
            if name.rpartition("__")[2] == "random_state" and value is None
        ]
        if unset and trainer.encoder_seed is None:
            trainer.encoder_seed = int(trainer.rng.randint(2**31 - 1))
        return encoder.set_params(**dict.fromkeys(unset, trainer.encoder_seed))

    def _select(self, values: Data, rows: Ints, name: str) -> Data:
        """Some rows of X or y, in any of the forms that they may take."""
        if values is None:
            return None
        if item_kind(self.encoder) == "vector":
            return _safe_indexing(values, rows)
        items = to_rows(values)[0] if name == "X" else to_list(values, name)
        return [items[i] for i in rows]

    def _keep(self, trainer: Trainer[Any, Any], state: Any, monitor: Monitor) -> None:
        super()._keep(trainer, state, monitor)
        self._encoder_fingerprint = fingerprint_of(self.encoder_)

    # ---- saving

    def _saved(self) -> Parts:
        parts = super()._saved()
        parts.content["encoder"], _ = encoder_to_json(self.encoder_)
        parts.content["fingerprint"] = self._encoder_fingerprint
        return parts

    def _restore(self, state: State) -> None:
        super()._restore(state)
        encoder, fingerprint = state.encoder()
        self.encoder_, self._encoder_fingerprint = encoder, fingerprint
        is_frozen = isinstance(encoder, FrozenEstimator)
        if is_frozen and isinstance(self.encoder, FrozenEstimator):
            self.encoder = encoder  # the parameter alone would not be fitted
        self._encoder_checked = False

    # ---- use

    def _checked_encoder(self) -> Any:
        """The encoder; after unpickling it is compared with the one of fit, once."""
        if not self._encoder_checked:
            _leave_missing_device(self.encoder_)
            if fingerprint_of(self.encoder_) != self._encoder_fingerprint:
                raise ValueError(
                    f"The encoder {self.encoder_!r} is not the one this "
                    f"{type(self).__name__} was fitted with: its weights, prompts or "
                    "settings have changed. Restore the model, or fit again."
                )
            self._encoder_checked = True
        return self.encoder_

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_encoder_checked", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._encoder_checked = not hasattr(self, "_encoder_fingerprint")

    @property
    def _item_kind(self) -> ItemKind:
        encoder = getattr(self, "encoder_", self.encoder)
        return "vector" if encoder is None else item_kind(encoder)


def _leave_missing_device(encoder: Any) -> None:
    """Let a fitted encoder from another machine compute on a device of this one."""
    encoder = thawed(encoder)
    if getattr(encoder, "device", None) is not None:
        from skembft._models.devices import is_available

        if not is_available(encoder.device):
            encoder.device = None


def fingerprint_of(encoder: Any) -> str | None:
    """Hash of what determines an encoder's vectors; None where it has none."""
    return encoder._fingerprint() if hasattr(encoder, "_fingerprint") else None
