"""What integrations share: what is fitted, the layer of an adapter."""

from typing import Any

from sklearn.utils.validation import check_is_fitted

from skembft._adapter.estimator import AdapterFinetuner


def fitted(estimator: Any) -> Any:
    """Return a fitted estimator, of a search the best one."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    check_is_fitted(estimator)
    return estimator


def fitted_adapter(adapter: Any) -> AdapterFinetuner:
    """Return a fitted `AdapterFinetuner` whose layer is one of our own."""
    adapter = fitted(adapter)
    if not isinstance(adapter, AdapterFinetuner):
        raise TypeError(
            f"adapter must be a fitted AdapterFinetuner, got {type(adapter).__name__}."
        )
    layer = adapter._adapter_spec[0]
    if not isinstance(layer, str) and any(adapter.weights_.values()):
        raise ValueError(
            f"The adapter is a {layer.__name__}, a module of your own, and only "
            "'linear', 'low_rank' and 'mlp' can be exported: export the module itself, "
            "whose state_dict is in weights_."
        )
    return adapter


def activation_of(adapter: AdapterFinetuner) -> str:
    """The activation of a fitted "mlp"."""
    return adapter._adapter_spec[1].get("activation", "relu")
