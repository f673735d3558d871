"""LlamaIndex's adapter folders: ``config.json`` and ``pytorch_model.bin``."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from skembft._adapter.estimator import AdapterFinetuner
from skembft._adapter.params import Arrays
from skembft._finetuner.base import BaseFinetuner
from skembft._finetuner.frozen import fingerprint_of
from skembft._finetuner.history import History
from skembft._utils import types
from skembft._utils.atomic import replaced_file, write_json
from skembft._utils.estimators import thawed
from skembft._utils.messages import shorten
from skembft.encoders._base import BaseEncoder
from skembft.integrations._common import activation_of, fitted_adapter

_CONFIG, _WEIGHTS = "config.json", "pytorch_model.bin"
_LINEAR: dict[str, type[Any]] = {"in_features": int, "out_features": int, "bias": bool}
_TWO_LAYER: dict[str, type[Any]] = {
    **_LINEAR,
    "hidden_features": int,
    "activation_fn_str": str,
    "add_residual": bool,
}


def save_llama_index_adapter(adapter: Any, path: types.Path) -> None:
    """Save an adapter as a folder that LlamaIndex's `AdapterEmbeddingModel` loads.

    A linear or low-rank adapter becomes a `LinearLayer`, which LlamaIndex loads by
    default. An "mlp" with relu becomes a `TwoLayerNN` with its residual, which has to
    be named: ``adapter_cls=TwoLayerNN``.

    Parameters
    ----------
    adapter : fitted AdapterFinetuner, or fitted search over one
        With ``side="query"``, as LlamaIndex adapts queries only.
    path : str or path-like
        The folder. It is made if it does not exist; the two files of an older adapter
        are replaced, each whole or not at all.

    Raises
    ------
    TypeError
        If `adapter` is not an `AdapterFinetuner`.
    ValueError
        If LlamaIndex has no such adapter.

    See Also
    --------
    load_llama_index_adapter : The way back.
    to_llama_index : The finetuner itself inside LlamaIndex, whatever it is.

    Notes
    -----
    LlamaIndex does not scale adapted vectors to unit length. Rankings by cosine are the
    same, inner products and thresholds on them are not. Its base model has to be the
    encoder of the adapter, with the same prompts, and to give unit vectors.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from skembft import AdapterFinetuner
    >>> from skembft.integrations import (
    ...     load_llama_index_adapter, save_llama_index_adapter)
    >>> X = np.random.default_rng(0).normal(size=(20, 4))
    >>> adapter = AdapterFinetuner(None, epochs=2, validation_fraction=None)
    >>> adapter = adapter.fit(X, X[:, ::-1])
    >>> with tempfile.TemporaryDirectory() as path:
    ...     save_llama_index_adapter(adapter, path)
    ...     print(sorted(file.name for file in pathlib.Path(path).iterdir()))
    ...     loaded = load_llama_index_adapter(path, encoder=None)
    ['config.json', 'pytorch_model.bin']
    >>> bool((loaded.transform(X) == adapter.transform(X)).all())
    True
    """
    import torch

    adapter = fitted_adapter(adapter)
    config, arrays = _to_llama_index(adapter)
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    path = Path(path)
    if (path / _CONFIG).exists():  # of a model it would be lost, and its weights
        old = None
        with suppress(ValueError):
            old = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        if not _is_config(old):
            raise FileExistsError(
                f"{path / _CONFIG} is not of an adapter of LlamaIndex, and would be "
                "overwritten: pass another directory."
            )
    path.mkdir(parents=True, exist_ok=True)
    with replaced_file(path / _WEIGHTS) as temporary:
        torch.save(state, temporary)
    write_json(path / _CONFIG, config)


def _to_llama_index(adapter: AdapterFinetuner) -> tuple[dict[str, Any], Arrays]:
    """Return LlamaIndex's config and state_dict of a fitted adapter."""
    if set(adapter.weights_) != {"query"}:
        raise ValueError(
            "LlamaIndex adapts queries only, and this adapter changes documents too: "
            "fit one with side='query', or use to_llama_index(adapter)."
        )
    weights, dim = adapter.weights_["query"], adapter.embedding_dim_
    if "weight_1" not in weights:
        weight = weights.get("weight", np.eye(dim, dtype=np.float32))  # untouched
        arrays = {"linear.weight": weight}
        if "bias" in weights:
            arrays["linear.bias"] = weights["bias"]
        bias = "bias" in weights
        return {"in_features": dim, "out_features": dim, "bias": bias}, arrays
    activation = activation_of(adapter)
    if activation != "relu":
        raise ValueError(
            f"LlamaIndex has no two-layer adapter with {activation!r}: fit one with "
            "adapter_params={'activation': 'relu'}, with adapter='linear' or "
            "'low_rank', or use to_llama_index(adapter)."
        )
    config = {
        "in_features": dim,
        "hidden_features": len(weights["weight_1"]),
        "out_features": dim,
        "bias": True,
        "activation_fn_str": "relu",
        "add_residual": True,
    }
    return config, {
        "residual_weight": np.ones(1, dtype=np.float32),
        "linear1.weight": weights["weight_1"],
        "linear1.bias": weights["bias_1"],
        "linear2.weight": weights["weight_2"],
        "linear2.bias": weights["bias_2"],
    }


def load_llama_index_adapter(path: types.Path, encoder: Any) -> AdapterFinetuner:
    """Return the adapter of a LlamaIndex folder as a fitted `AdapterFinetuner`.

    Such a folder is the `model_output_path` of LlamaIndex's
    `EmbeddingAdapterFinetuneEngine`, or one of its checkpoints. Nothing in it is
    executed.

    Parameters
    ----------
    path : str or path-like
        The folder, of a `LinearLayer` or of a `TwoLayerNN` with relu and
        ``add_residual=True``.
    encoder : str, encoder or None
        The model that was adapted, as in `AdapterFinetuner`: an embedding object of
        LlamaIndex goes in as ``APIEncoder(embed_model)``.

    Returns
    -------
    adapter : AdapterFinetuner
        Fitted. As it was not trained here, its `history_` is empty, and what tells of
        training is None. To train it further, call `fit` after
        ``set_params(warm_start=True)``.

    Raises
    ------
    OSError
        If a file is missing or cannot be read.
    ValueError
        If the files are not such an adapter, hold anything but finite weights, or do
        not fit the dimension of the encoder.

    See Also
    --------
    save_llama_index_adapter : The way there.

    Notes
    -----
    The vectors of queries are LlamaIndex's, scaled to unit length; rankings are the
    same. LlamaIndex adapts vectors as its model gives them, here they are scaled to
    unit length before too; they are so already with nearly all models, and for a
    layer without bias it makes no difference.

    Examples
    --------
    >>> from skembft.integrations import load_llama_index_adapter
    >>> adapter = load_llama_index_adapter(
    ...     "model_output", "BAAI/bge-small-en")  # doctest: +SKIP
    >>> adapter.transform(["how do I get my money back?"])  # doctest: +SKIP
    """
    path = Path(path)
    if isinstance(encoder, BaseFinetuner):
        raise ValueError(
            f"encoder is a {type(encoder).__name__}: pass it fitted, as "
            "FrozenEstimator(finetuner)."
        )
    config = _read_config(path / _CONFIG)
    settings, weights = _from_llama_index(config, path / _WEIGHTS)
    dim = config["in_features"]
    adapter = AdapterFinetuner(encoder, **settings)
    adapter._check_settings()
    opened = None if encoder is None else adapter._open_encoder()
    if opened is None:
        adapter.n_features_in_ = dim
    else:
        width, inner = dim, thawed(opened)
        if isinstance(inner, BaseEncoder):
            with suppress(ValueError):  # of an API known once it has encoded a text
                width = inner._dimension()
        elif isinstance(inner, BaseFinetuner):
            width = inner.embedding_dim_
        if width != dim:
            raise ValueError(
                f"The adapter in {path} is for vectors of {dim} dimensions, and the "
                f"encoder {opened!r} gives {width}: pass the model that was adapted."
            )
    fitted = {
        "weights_": {"query": weights},
        "embedding_dim_": dim,
        "encoder_": opened,
        "_encoder_checked": True,
        "_encoder_fingerprint": fingerprint_of(opened),
        "_adapter_spec": adapter._spec(),
        "history_": History(),
        "negatives_": adapter.negatives,
        "interpolation_": 1.0,
        "n_iter_": 0,
        "best_step_": None,
        "best_epoch_": None,
        "base_score_": None,
        "validation_score_": None,
    }
    for name, value in fitted.items():
        setattr(adapter, name, value)
    return adapter


def _is_config(config: object) -> bool:
    """Whether JSON has the names of one of LlamaIndex's adapters."""
    return isinstance(config, dict) and set(config) in (set(_LINEAR), set(_TWO_LAYER))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not _is_config(config):
        raise ValueError(
            f"{path} is not of LlamaIndex's LinearLayer or TwoLayerNN, which have "
            f"{', '.join(_LINEAR)}, and {', '.join(_TWO_LAYER)}: it holds "
            f"{shorten(config)}. An adapter of your own is adapter=YourModule, fitted "
            "anew."
        )
    for name in config:
        value, kind = config[name], _TWO_LAYER[name]
        if type(value) is not kind or (kind is int and value < 1):
            wanted = "a whole number above 0" if kind is int else f"a {kind.__name__}"
            raise ValueError(
                f"{path}: {name!r} must be {wanted}, got {shorten(value)}."
            )
    if config["in_features"] != config["out_features"]:
        raise ValueError(
            f"{path}: the adapter changes {config['in_features']} dimensions to "
            f"{config['out_features']}, and documents are not adapted: they could not "
            "be compared."
        )
    fits = config.get("activation_fn_str", "relu") == "relu"
    if not (fits and config.get("add_residual", True)):
        raise ValueError(
            f"{path}: of TwoLayerNN only activation_fn_str='relu' with "
            "add_residual=True has a counterpart (adapter='mlp'), got "
            f"{config['activation_fn_str']!r} with {config['add_residual']}."
        )
    return config


def _from_llama_index(
    config: dict[str, Any], path: Path
) -> tuple[dict[str, Any], Arrays]:
    """Return arguments of `AdapterFinetuner` and the weights of its query layer."""
    dim = config["in_features"]
    if "hidden_features" not in config:
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (dim, dim)}
        if config["bias"]:
            shapes["linear.bias"] = (dim,)
        arrays = _read_weights(path, shapes)
        settings = {"adapter_params": {"bias": True}} if config["bias"] else {}
        return settings, {
            name.removeprefix("linear."): array for name, array in arrays.items()
        }
    hidden = config["hidden_features"]
    arrays = _read_weights(
        path,
        {
            "residual_weight": (1,),
            "linear1.weight": (hidden, dim),
            "linear1.bias": (hidden,),
            "linear2.weight": (dim, hidden),
            "linear2.bias": (dim,),
        },
    )
    # theirs is x + r (W₂ relu(W₁x + b₁) + b₂), whatever "bias" says
    scale = arrays["residual_weight"]
    return {"adapter": "mlp", "adapter_params": {"hidden_dim": hidden}}, {
        "weight_1": arrays["linear1.weight"],
        "bias_1": arrays["linear1.bias"],
        "weight_2": scale * arrays["linear2.weight"],
        "bias_2": scale * arrays["linear2.bias"],
    }


def _read_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Return the arrays of a state_dict; anything but such arrays is refused."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many classes, for a file that is no state_dict
        reason = shorten(" ".join(str(error).split()), 200)
        raise ValueError(
            f"{path} does not hold weights alone, or is damaged; nothing in it was "
            f"executed ({type(error).__name__}: {reason})."
        ) from error
    found = state if isinstance(state, dict) else {}
    found = {
        name: tuple(value.shape)
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and value.device.type == "cpu"  # "meta" holds nothing
    }
    if found != shapes:
        raise ValueError(
            f"{path} must hold floating-point tensors as config.json says, {shapes}, "
            f"got {shorten(found or state, 300)}."
        )
    arrays = {n: value.detach().float().numpy().copy() for n, value in state.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name!r} contains NaN or infinity.")
    return arrays
