"""`model_params`: what `SentenceTransformer` is given; nothing here imports torch."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError

from skembft._utils.hidden import HiddenToken
from skembft._utils.messages import shorten
from skembft._utils.types import Params

_KWARGS = ("model_kwargs", "processor_kwargs", "config_kwargs")
_NAMES = ("revision", "token", *_KWARGS)
# what else SentenceTransformer or transformers take, and where it is said here
_INSTEAD = {
    "model_name_or_path": "the argument model_id",
    "modules": "the argument model_id",
    "device": "the argument device",
    "device_map": "the argument device",
    "truncate_dim": "the argument truncate_dim",
    "backend": "the argument backend of SentenceEncoder",
    "trust_remote_code": "the argument trust_remote_code",
    "prompts": "the arguments query_prompt and document_prompt",
    "default_prompt_name": "the arguments query_prompt and document_prompt",
    "max_seq_length": "the argument max_seq_length",
    "use_auth_token": "the key 'token'",
    "token": "the key 'token' of model_params itself",
    "revision": "the key 'revision' of model_params itself",
    "tokenizer_kwargs": "the key 'processor_kwargs'",
    "tokenizer_args": "the key 'processor_kwargs'",
    "model_args": "the key 'model_kwargs'",
    "config_args": "the key 'config_kwargs'",
    "cache_folder": "the environment variable SENTENCE_TRANSFORMERS_HOME",
    "cache_dir": "the environment variable SENTENCE_TRANSFORMERS_HOME",
    "local_files_only": "the environment variable HF_HUB_OFFLINE",
}
_DTYPES = ("auto", "float32", "bfloat16", "float16")
# code from a hub, or from weights that are pickles
_CODE = ("use_kernels", "kernel_config", "weights_only")


class HasModelParams(BaseEstimator):
    """An estimator with `model_params`, whose token is neither shown nor pickled."""

    model_params: Params | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; a token among `model_params` is hidden when shown.

        Parameters
        ----------
        deep : bool, default=True

        Returns
        -------
        params : dict
        """
        params = super().get_params(deep)
        given = params["model_params"]
        if type(given) is dict and "token" in given:
            params["model_params"] = HiddenToken(given)
        return params

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "model_params": without_token(state["model_params"])}


def without_token(params: Params | None) -> Params | None:
    """`model_params` as they may be kept."""
    if not params or "token" not in params:
        return params
    return {name: value for name, value in params.items() if name != "token"}


def check_model_params(params: Params | None, trust_remote_code: bool) -> None:
    """Refuse what cannot be passed on, and say where else it is set."""
    params = params or {}
    for name in params:
        if name not in _NAMES:
            raise InvalidParameterError(
                f"model_params: {name!r} is not among {', '.join(_NAMES)}"
                + (f"; use {_INSTEAD[name]}." if name in _INSTEAD else ".")
            )
    token, revision = params.get("token"), params.get("revision")
    if not isinstance(token, str | bool | None):
        raise InvalidParameterError(
            f"model_params: token must be a str or bool, not {type(token).__name__}."
        )
    if isinstance(token, str) and (not token or token.split() != [token]):
        raise InvalidParameterError(
            "model_params: token is empty or holds white space, such as the end of the "
            "line of a file it was read from: strip it."
        )
    if not isinstance(revision, str | None) or revision == "":
        raise InvalidParameterError(
            "model_params: revision must name a branch, tag or commit, got "
            f"{shorten(revision)}."
        )
    for kind in _KWARGS:
        _check_arguments(kind, params.get(kind), trust_remote_code)


def _check_arguments(kind: str, arguments: Any, trust_remote_code: bool) -> None:
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        raise InvalidParameterError(
            f"model_params: {kind} must be a dict, got {shorten(arguments)}."
        )
    for name, value in arguments.items():
        place = f"model_params: {name!r} in {kind}"
        if name in _INSTEAD:
            raise InvalidParameterError(f"{place}: use {_INSTEAD[name]}.")
        plain = _plain(value, place)
        if name in ("dtype", "torch_dtype") and plain not in (None, *_DTYPES):
            raise InvalidParameterError(
                f"{place} is {shorten(value)}, not among {', '.join(_DTYPES)}."
            )
        is_code = name in _CODE or (
            name.endswith("_implementation") and "/" in str(value)
        )
        if is_code and not trust_remote_code:
            raise InvalidParameterError(
                f"{place} brings code that is not of transformers: it needs "
                "trust_remote_code=True."
            )


def described(params: Params | None) -> Params | None:
    """`model_params` as JSON values, without the token."""
    params = without_token(params)
    return params and _plain(params, "model_params")


def key_of(params: Params | None) -> str:
    """What besides a model's files determines its vectors, as a text."""
    known = {k: v for k, v in (described(params) or {}).items() if k != "revision"}
    return json.dumps(known, sort_keys=True) if known else ""


def dtype_of(params: Params | None) -> str | None:
    """The type of the weights that a user asks for; None where they do not say."""
    for arguments in _all_arguments(params):
        dtype = arguments.get("dtype", arguments.get("torch_dtype"))
        if dtype is not None:
            return _plain(dtype, "dtype")
    return None


def is_quantized(params: Params | None) -> bool:
    """Whether a user asks for quantised weights."""
    return any("quantization_config" in args for args in _all_arguments(params))


def _all_arguments(params: Params | None) -> Iterator[Params]:
    for kind in ("model_kwargs", "config_kwargs"):
        yield (params or {}).get(kind) or {}


def _plain(value: Any, place: str) -> Any:
    """A value as JSON has it, so that equal ones are told from others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, place) for item in value]
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    if hasattr(value, "to_dict"):  # a configuration of transformers
        return _plain(value.to_dict(), place)
    raise InvalidParameterError(
        f"{place} is a {type(value).__name__}: pass numbers, texts, lists, dicts, a "
        "torch.dtype or a configuration of transformers."
    )
