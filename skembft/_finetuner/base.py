"""The flow that all finetuners share; a subclass says what is trained and how."""

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
)

from skembft._data.relevance import LabelRelevance
from skembft._data.retrieval_data import RetrievalData
from skembft._data.vectors import are_labels
from skembft._data.weights import weigh
from skembft._finetuner.epochs import EpochTasks
from skembft._finetuner.history import History
from skembft._finetuner.monitor import Monitor
from skembft._finetuner.retriever import POOL, RetrieverMixin
from skembft._finetuner.trainer import Trainer
from skembft._finetuner.validation import (
    N_FOLDS,
    cross_fitted,
    epochs_apart,
    hold_out,
    most_validated,
    query_keys,
    sample_queries,
)
from skembft._losses.table import LossSpec, spec_of
from skembft._saving.mixin import PretrainedMixin
from skembft._saving.state import Parts, State
from skembft._utils.estimators import DocLink, PlainParameters
from skembft._utils.types import (
    Data,
    Ints,
    OwnDocuments,
    Split,
)
from skembft._version import __version__
from skembft.exceptions import MissingDocumentsWarning
from skembft.metrics._measures import HISTORY_METRICS, check_metrics
from skembft.metrics._scoring import (
    read_data,
)

FINETUNER_CONSTRAINTS: dict[str, Any] = {
    "scoring": [str],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
    "refit": ["boolean"],
    "exclude_self": ["boolean", Mapping],
    "random_state": ["random_state"],
}
TRAINING_CONSTRAINTS: dict[str, Any] = {
    **FINETUNER_CONSTRAINTS,
    "loss": [str, callable],
    "loss_params": [dict, None],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "epochs": [Interval(Integral, 1, None, closed="left")],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "warmup_ratio": [Interval(Real, 0, 1, closed="both")],
    "use_all_docs": ["boolean"],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
    "evaluation_steps": [Interval(Integral, 0, None, closed="left")],
    "warm_start": ["boolean"],
    "interpolation": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right"), None],
}

_TRAINED = "trained_queries"  # in a saved directory


class BaseFinetuner(
    DocLink,
    PlainParameters,
    PretrainedMixin,
    RetrieverMixin,
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """What fits; subclasses define `_open`, which makes a `Trainer`."""

    _history_metrics: tuple[str, ...] = HISTORY_METRICS
    # what losses need that do not learn query by query
    _unweighted: tuple[str, ...] = ()
    _fewest_held_out = 1
    _advice = "More data, other negatives, or a lower learning_rate may help."

    history_: History
    # keys of the queries that fits have trained on, and what a warm start that trains
    # on all queries again at the end goes on from has been trained on
    _seen_queries: Ints = np.empty(0, dtype=np.uint64)
    _trained_queries: Ints = np.empty(0, dtype=np.uint64)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Data,
        y: Data = None,
        sample_weight: Data = None,
        *,
        corpus: Data = None,
        X_val: Data = None,
        y_val: Data = None,
        sample_weight_val: Data = None,
        corpus_val: Data = None,
    ) -> Self:
        """Fine-tune on queries and their relevant documents.

        Parameters
        ----------
        X : array-like of shape (n,), or table of (query, document, …) rows
            Queries, or pairs, triplets and longer rows; see the guide on data forms.
        y : array-like of n items, default=None
            Of every query the relevant document, a list of them (most relevant first)
            or a dict {document: grade}; of every pair a label; None for a table of
            positive pairs or triplets.
        sample_weight : array-like of shape (n,), default=None
            Weight of every row; a query has the mean of its rows' weights. It is what
            the query counts in the training loss and in validation. One of weight 0
            counts nothing; its documents stay in the pool.
        corpus : array-like of documents, default=None
            More documents, for negatives and for the pool in validation.
        X_val, y_val : same forms as X and y, default=None
            Validation data; they win over `validation_fraction`. In a search use
            `validation_fraction`: scikit-learn slices arguments as long as X.
        sample_weight_val : array-like of shape (n_val,), default=None
            Weight of every row of `X_val`.
        corpus_val : array-like of documents, default=None
            More documents for the pool in validation with `X_val`. None means all that
            are known: those of `y` and of `corpus`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            Bad data; the message names the row, the value and what to do. Nothing has
            been loaded or trained then.
        OSError
            A model that cannot be loaded.
        """
        with self._quiet():
            rng = check_random_state(self.random_state)
            trained = self._trained_before()
            self._check_settings()
            if sample_weight is not None:
                self._check_weighable()
            data = self._read(X, y, corpus, fitting=True, reset=True)
            data = weigh(data, sample_weight)
            held_out = self._read_validation(
                X_val, y_val, sample_weight_val, corpus_val, data
            )
            self._check_learnable(data)
            self._check_own(data, held_out)
            trainer: Trainer[Any, Any] = self._open(rng, data, held_out)
            pool = len((held_out or data).documents)
            most = most_validated(trainer, data, pool)
            if held_out is not None:
                held_out = sample_queries(held_out, most, rng)
            splits = self._split(data, held_out, trainer, most, trained)
            tasks = trainer.tasks = EpochTasks(
                self, X, y, trainer.epochs * (trainer.runs + self.refit)
            )
            training = splits[0][0] if splits else None
            self._fit_encoder(trainer, data, X, y, sample_weight, corpus, training)
            train = everything = trainer.prepare(data)
            self._warn_own(everything)
            validation = None if held_out is None else trainer.prepare(held_out)
            if splits:
                train, validation = trainer.split(everything, splits)
            monitor = self._monitor(trainer, data, validation)
            state = validated = trainer.train(train, monitor, trainer.epochs)
            if self.refit and splits:
                tasks.refitting = True  # with what was held out
                if self._fit_encoder(trainer, data, X, y, sample_weight, corpus):
                    everything = trainer.prepare(data)
                if monitor.best_step:
                    state = trainer.train(
                        everything,
                        self._monitor(trainer, data, None),
                        monitor.best_epoch,
                    )
                else:
                    state = trainer.unchanged(state, everything)
            self._sizes = {
                "queries": data.n_queries,
                "documents": len(data.documents),
                POOL: pool,
            }
            self._keep(trainer, state, monitor)
            self._remember(data, splits, validated, trained)
            tasks.close()
        return self

    def _quiet(self) -> AbstractContextManager[None]:
        """A context in which a fit that others see too says nothing."""
        return nullcontext()

    def _trained_before(self) -> Ints | None:
        """Keys of the queries of earlier fits, which a warm start goes on from."""
        if getattr(self, "warm_start", False) and self.__sklearn_is_fitted__():
            return self._trained_queries if self.refit else self._seen_queries
        return None

    def _remember(
        self,
        data: RetrievalData,
        splits: list[Split] | None,
        validated: Any,
        trained: Ints | None,
    ) -> None:
        """Keep what a warm start needs to know of this fit."""
        if not hasattr(self, "warm_start"):
            return
        keys = query_keys(data.queries)
        trained_on = keys[splits[0][0]] if splits else keys
        kept = self._keep_validated(validated if splits and self.refit else None)
        seen = keys if self.refit else trained_on
        if trained is not None:  # it went on from an earlier fit
            seen = np.union1d(self._seen_queries, seen)
            trained_on = np.union1d(trained, trained_on)
        self._seen_queries = seen
        self._trained_queries = trained_on if kept else seen

    def _keep_validated(self, state: Any) -> bool:
        """Keep the state that a refit, if there was one, has replaced, if possible.

        It has not seen the queries that were held out: a warm start may go on from it
        and be validated by them.
        """
        return False

    def _check_settings(self) -> None:
        """Check constructor arguments beyond their types, before anything is read."""
        try:
            check_metrics(self.scoring)
        except ValueError as error:
            raise InvalidParameterError(f"scoring: {error}") from None

    def _check_own(self, data: RetrievalData, held_out: RetrievalData | None) -> None:
        """Warn where `exclude_self` leaves out nothing in validation."""
        if self.exclude_self is False:
            return
        if held_out is not None or self.validation_fraction is not None:
            (held_out or data).excluded(self.exclude_self)

    def _warn_own(self, prepared: Any) -> None:
        """Warn where `exclude_self` is wanting."""
        data: RetrievalData = prepared.data
        if self.exclude_self is not False or isinstance(data.relevance, LabelRelevance):
            return
        own = data.judged.own
        queries = np.flatnonzero(own >= 0)
        grades = data.judged.grades(queries, own[queries, None])[:, 0]
        queries = queries[grades <= 0]
        if 2 * len(queries) <= data.n_queries:
            return
        # the same text is the same thing; the same number may be another one
        if self._item_kind == "text" or prepared.finds(queries, own[queries]) > 0.5:
            warnings.warn(
                f"{len(queries)} of the {data.n_queries} queries are documents "
                "themselves, and not relevant ones: in validation and scores each "
                "finds itself first. exclude_self=True leaves it out.",
                UserWarning,
                stacklevel=4,
            )

    def _check_weighable(self) -> None:
        """Refuse a `sample_weight` that would change nothing."""
        spec = self._loss_spec() if self._unweighted else None
        if spec is not None and spec.needs in self._unweighted:
            raise ValueError(
                f"loss={self.loss!r} has no place for sample_weight: it does not learn "
                "query by query. Leave the weights out, or use another loss."
            )

    def _read(
        self,
        X: Data,
        y: Data,
        corpus: Data,
        *,
        fitting: bool = False,
        reset: bool = False,
        suffix: str = "",
        own: OwnDocuments = False,
    ) -> RetrievalData:
        """Validate data; `reset` for those that define what the estimator takes."""
        own = own or self.exclude_self
        return read_data(self, X, y, corpus, suffix=suffix, own=own, stored=fitting)

    def _read_validation(
        self,
        X_val: Data,
        y_val: Data,
        sample_weight_val: Data,
        corpus_val: Data,
        data: RetrievalData,
    ) -> RetrievalData | None:
        if X_val is None:
            if y_val is not None or corpus_val is not None:
                raise ValueError("y_val and corpus_val go with X_val, which is None.")
            if sample_weight_val is not None:
                raise ValueError("sample_weight_val goes with X_val, which is None.")
            return None
        with warnings.catch_warnings():
            labelled = isinstance(data.queries, np.ndarray) and are_labels(y_val)
            if corpus_val is None and not labelled:
                corpus_val = data.documents
                if not len(data.corpus):  # no collection that should hold y_val
                    category = MissingDocumentsWarning
                    warnings.filterwarnings("ignore", "Of the .*", category)
            held_out = self._read(X_val, y_val, corpus_val, fitting=True, suffix="_val")
        held_out = weigh(held_out, sample_weight_val, "sample_weight_val")
        if not len(held_out.answerable):
            raise ValueError(
                "No query of X_val has a relevant document in y_val (and a weight "
                "above 0): there is nothing to validate by."
            )
        return held_out

    def _check_learnable(self, data: RetrievalData) -> None:
        spec = self._loss_spec()
        if spec is None:  # a callable's loss is known once it is made
            if not data.labelled:
                self._check_answerable(data)
            return
        self._check_batch(spec, data)
        if not spec.takes_zeros(data):
            self._check_answerable(data)
        if self._draws_negatives(data):
            data.check_negatives()
        spec.check_data(data)

    def _loss_spec(self) -> LossSpec | None:
        """What the loss needs, or None where a callable makes it."""
        name = self._find_loss()
        return None if name is None else spec_of(name, self.loss_params)

    def _check_batch(self, spec: LossSpec, data: RetrievalData) -> None:
        spec.check_batch(data, self.negatives, self.batch_size)

    def _draws_negatives(self, data: RetrievalData) -> bool:
        """Whether every query must have a negative, as single ones are drawn."""
        spec = self._loss_spec()
        return spec is not None and spec.draws_negatives(data, self.negatives)

    @staticmethod
    def _check_answerable(data: RetrievalData) -> None:
        if not len(data.answerable):
            raise ValueError(
                f"There is nothing to learn from the {len(data.row_query)} sample(s): "
                "no query has a relevant document (a grade or label above 0, or "
                "another row of the same class) and a weight above 0."
            )

    def _split(
        self,
        data: RetrievalData,
        held_out: RetrievalData | None,
        trainer: Trainer[Any, Any],
        most: int,
        trained: Ints | None,
    ) -> list[Split] | None:
        """Indices of (training, held-out) queries, or None where none are held out."""
        if held_out is not None:
            return None
        rng, pool = trainer.rng, len(data.documents)
        most_in_folds = most_validated(trainer, data, pool, N_FOLDS - 1)
        if self._in_folds(len(data.answerable), most_in_folds):
            splits = cross_fitted(data, rng)
            if all(self._is_learnable(data.subset(train)) for train, _ in splits):
                return splits
        split = hold_out(
            data,
            self.validation_fraction,
            rng,
            most,
            trained,
            refit=self.refit,
            fewest=self._fewest_held_out,
        )
        return split and [split]

    def _is_learnable(self, data: RetrievalData) -> bool:
        try:
            self._check_learnable(data)
        except ValueError:  # the whole data have passed
            return False
        return True

    def _in_folds(self, n_queries: int, most: int) -> bool:
        """Whether so many queries, of which `most` may be asked, are each held out."""
        return False

    def _fit_encoder(
        self,
        trainer: Trainer[Any, Any],
        data: RetrievalData,
        X: Data,
        y: Data,
        sample_weight: Data,
        corpus: Data,
        queries: Ints | None = None,
    ) -> bool:
        """Fit an encoder that learns, on some queries; return whether there is one."""
        return False

    def _monitor(
        self, trainer: Trainer[Any, Any], data: RetrievalData, validation: Any
    ) -> Monitor:
        validate, weights, apart = None, None, 1
        if validation is not None:
            names = list(dict.fromkeys([self.scoring, *self._history_metrics]))
            validate = partial(trainer.scores, validation, check_metrics(names))
            weights = validation.data.weights
            n_queries, pool = validation.data.n_queries, len(validation.data.documents)
            trained = N_FOLDS - 1 if trainer.in_folds else 1
            apart = epochs_apart(trainer, data, n_queries, pool, trained)
        monitor = Monitor(
            self.scoring,
            trainer.patience,
            validate,
            trainer.snapshot,
            trainer.growth,
            self._advice,
            apart,
            weights,
            trainer.in_folds,
        )
        trainer.tasks.attributes = lambda: {
            **trainer.attributes(),
            **monitor.attributes(),
        }
        return monitor

    def _keep(self, trainer: Trainer[Any, Any], state: Any, monitor: Monitor) -> None:
        attributes = {**trainer.attributes(state), **monitor.attributes()}
        for name, value in attributes.items():
            setattr(self, name, value)

    def _restore(self, state: State) -> None:
        super()._restore(state)
        for name, value in state.attributes.items():
            setattr(self, name, value)
        self.history_ = History(
            state.history,
            metric=state.content.get("history_metric"),
            best_step=state.attributes.get("best_step_", 0),
        )
        self._sizes = state.sizes()
        if _TRAINED in state.arrays:
            self._seen_queries = state.arrays.pop(_TRAINED)
            self._trained_queries = self._seen_queries

    def _saved(self) -> Parts:
        parts = super()._saved()
        if len(self._seen_queries):
            parts.arrays[_TRAINED] = self._seen_queries
        return parts

    @property
    def _n_features_out(self) -> int:
        return self.embedding_dim_

    def __copy__(self) -> Self:
        """A shallow copy, as callbacks get it each epoch: nothing is packed for it."""
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_skembft_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_skembft_version", None)
        if saved != __version__:
            warnings.warn(
                f"This {type(self).__name__} was saved by skembft {saved}, this is "
                f"{__version__}: results may differ.",
                UserWarning,
                stacklevel=2,
            )
        super().__setstate__(state)
