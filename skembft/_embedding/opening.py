"""What a fit starts from: its processes, its model, its seed, its checkpoints."""

import os
from copy import deepcopy
from numbers import Integral
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError

from skembft._data.retrieval_data import RetrievalData
from skembft._embedding.checkpoints import Run
from skembft._embedding.identity import identity_of
from skembft._embedding.output import CHECKPOINTS
from skembft._embedding.processes import Processes
from skembft._embedding.trainer import ModelTrainer
from skembft._finetuner.trainer import Settings
from skembft._models.code import check_for_routes
from skembft._models.devices import default_cpu
from skembft._models.lengths import set_max_seq_length
from skembft._models.loading import (
    ModelOptions,
    ends_in_normalize,
    hash_weights,
    load_for_training,
    similarity_of_model,
)
from skembft._models.prompts import choose_prompt
from skembft._utils.search import in_fold, in_search
from skembft.encoders._sentence import MODEL_CONSTRAINTS, SentenceEncoder, StoreKey


@default_cpu()
def open_trainer(
    finetuner: Settings,
    rng: np.random.RandomState,
    data: RetrievalData,
    held_out: RetrievalData | None,
) -> ModelTrainer:
    """The trainer of a fit of an `EmbeddingFinetuner`."""
    processes = Processes.of(finetuner.device)
    if finetuner.batch_size % processes.count:
        raise InvalidParameterError(
            f"batch_size={finetuner.batch_size} cannot be shared by {processes.count} "
            "processes: use a multiple."
        )
    output = finetuner.model_output_path
    if output is not None and not in_fold():
        processes.first(lambda: os.makedirs(output, exist_ok=True))
    warm = finetuner.warm_start and finetuner.__sklearn_is_fitted__()
    if warm:
        _check_side(finetuner)
    model, fingerprint = _start_model(finetuner, warm)
    document_key = None
    if finetuner.side == "query":
        check_for_routes(model)
        document_key = _document_key(finetuner, model, warm)
    seed, run = finetuner.random_state, None
    if not isinstance(seed, Integral):
        seed = processes.agree(int(rng.randint(2**31 - 1)))
    if finetuner.save_checkpoints or finetuner.resume_from_checkpoint:
        run = processes.first(
            lambda: Run(
                os.path.join(output, CHECKPOINTS),
                identity_of(finetuner, fingerprint, data, held_out, processes.count),
                resume=finetuner.resume_from_checkpoint,
                others_allowed=warm or in_search(),
                limit=finetuner.checkpoint_save_total_limit,
                seed=int(seed),
            )
        )
        seed = run.seed
    if not isinstance(finetuner.random_state, Integral):
        rng = check_random_state(seed)
    return ModelTrainer(finetuner, model, rng, int(seed), processes, run, document_key)


def _check_side(finetuner: Settings) -> None:
    fitted = "both" if finetuner._document_key is None else "query"
    if finetuner.side != fitted:
        raise ValueError(
            "warm_start=True trains the fitted model further, and side was "
            f"{fitted!r} in its fit: restore it, or fit a clone."
        )


def _document_key(
    finetuner: Settings, model: SentenceTransformer, warm: bool
) -> StoreKey:
    """What determines the vectors of documents, which the untouched model gives."""
    settings = {name: getattr(finetuner, name) for name in MODEL_CONSTRAINTS}
    encoder = SentenceEncoder(**settings)
    if not warm:
        return encoder._store_key("document")
    # its files may be gone, and the settings others
    key: StoreKey = finetuner._document_key
    prompts: dict[str, Any] = model.prompts  # none is None, whatever its type says
    return key._replace(
        prompt=choose_prompt(prompts, finetuner.document_prompt, "document"),
        # what the model has, it keeps
        normalize=finetuner.normalize or key.normalize,
        precision=encoder._precision(),
        max_seq_length=finetuner.max_seq_length or key.max_seq_length,
        truncate_dim=finetuner.truncate_dim,
    )


def _start_model(finetuner: Settings, warm: bool) -> tuple[SentenceTransformer, str]:
    """The model to train, and a hash of what it starts from."""
    if warm:
        model = deepcopy(finetuner.model_)
        model.truncate_dim = finetuner.truncate_dim
        if finetuner.max_seq_length is not None:
            set_max_seq_length(model, finetuner.max_seq_length)
        fingerprint = hash_weights(model)
    else:
        model, fingerprint = load_for_training(ModelOptions.of(finetuner))
    if not finetuner.normalize:
        similarity_of_model(model)  # which refuses distances
        return model, fingerprint
    if not ends_in_normalize(model):
        model.append(Normalize())
    model.similarity_fn_name = "cosine"
    return model, fingerprint
