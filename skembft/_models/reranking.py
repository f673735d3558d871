"""CrossEncoders, which score pairs of texts. Imports torch: import it lazily."""

from typing import Any

import torch
from sentence_transformers import CrossEncoder

from skembft._models.devices import check_available, default_cpu
from skembft._models.files import cannot_load, find_model
from skembft._models.kinds import check_cross_encoder, check_vocabulary
from skembft._models.lengths import limit_to_positions
from skembft._models.loading import first_line, no_progress_bar
from skembft._models.random_state import isolated_rng
from skembft._utils.types import Floats


@default_cpu()
def load_cross_encoder(
    model_id: str, device: str | None, trust_remote_code: bool
) -> CrossEncoder:
    """Load a CrossEncoder in float32, or raise an OSError that says what to do."""
    check_available(device)
    files = find_model(model_id)
    if files is not None:
        check_cross_encoder(model_id, files)
        files.check_whole()
    try:
        with no_progress_bar(), isolated_rng():
            model = CrossEncoder(
                model_id,
                device=device,
                trust_remote_code=trust_remote_code,
                revision=None if files is None else files.revision,
                model_kwargs={"dtype": torch.float32},
            )
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise
        raise cannot_load(model_id, first_line(error), "CrossEncoder") from error
    check_vocabulary(model_id, model)
    limit_to_positions(model)
    return model


@default_cpu()
def predict(
    model: CrossEncoder, pairs: list[tuple[Any, Any]], batch_size: int
) -> Floats:
    """The scores of pairs, after the activation that the model is saved with."""
    return model.predict(pairs, batch_size=batch_size, show_progress_bar=False)
