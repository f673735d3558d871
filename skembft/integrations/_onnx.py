"""The layer of a fitted adapter as a small ONNX graph."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skembft._adapter.estimator import AdapterFinetuner
from skembft._utils.atomic import replaced_file
from skembft._utils.messages import nearest
from skembft._utils.optional import import_optional
from skembft._utils.types import Floats, Path, Role
from skembft._version import __version__
from skembft.integrations._common import activation_of, fitted_adapter

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_OPSET, _IR_VERSION = 17, 8  # what onnxruntime has read since 1.12 (2022)


def to_onnx(adapter: Any, path: Path, *, role: Role = "query") -> None:
    """Save the layer of a fitted adapter as an ONNX model, without its encoder.

    It takes the vectors of whatever makes them, such as an embedding API, in any
    language that has an ONNX runtime.

    Parameters
    ----------
    adapter : fitted AdapterFinetuner, or fitted search over one
        With ``adapter="linear"``, "low_rank" or "mlp".
    path : str or path-like
        The file, written whole or not at all; an existing one is replaced.
    role : {"query", "document"}, default="query"
        Which layer. Documents have one unless ``side="query"``.

    Raises
    ------
    ImportError
        Without the package onnx, of the extra ``onnx``.
    TypeError
        If `adapter` is not an `AdapterFinetuner`.
    ValueError
        If there is no such layer, or it is a module of your own.

    Notes
    -----
    The graph has one input, "embedding" of shape (n, d), and one output,
    "adapted_embedding" of shape (n, output_dim), both float32. It scales vectors to
    unit length before and after the layer, as `AdapterFinetuner.transform` does.

    Examples
    --------
    >>> from skembft.integrations import to_onnx
    >>> to_onnx(adapter, "adapter.onnx")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession("adapter.onnx")  # doctest: +SKIP
    >>> session.run(None, {"embedding": vectors})[0]  # doctest: +SKIP
    """
    adapter = fitted_adapter(adapter)
    if role not in ("query", "document"):
        raise ValueError(f"role={role!r}. {nearest(role, ['query', 'document'])}")
    if role not in adapter.weights_:
        raise ValueError(
            "role='document' has no layer: with side='query' documents keep the "
            "vectors of the encoder."
        )
    onnx = import_optional("onnx", "to_onnx", "onnx")
    model = _build(onnx, adapter, role)
    onnx.checker.check_model(model, full_check=True)
    with replaced_file(path) as temporary:
        onnx.save(model, temporary)


def _build(onnx: ModuleType, adapter: AdapterFinetuner, role: Role) -> "ModelProto":
    weights = adapter.weights_[role]
    graph = _Graph(onnx)
    x = graph.unit_rows("embedding")
    dim = adapter.embedding_dim_
    if "weight_1" in weights:
        hidden = graph.affine(x, weights["weight_1"], weights["bias_1"])
        hidden = graph.activate(hidden, activation_of(adapter))
        hidden = graph.affine(hidden, weights["weight_2"], weights["bias_2"])
        x = graph.unit_rows(graph.add("Add", x, hidden))
    elif weights:
        dim = weights["weight"].shape[1]
        x = graph.affine(x, weights["weight"], weights.get("bias"))
        x = graph.unit_rows(x)
    graph.add("Identity", x, output="adapted_embedding")
    vectors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name, width in (
            ("embedding", dim),
            ("adapted_embedding", adapter.embedding_dim_),
        )
    ]
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, f"{role}_adapter", vectors[:1], vectors[1:], graph.constants
        ),
        producer_name="skembft",
        producer_version=__version__,
        ir_version=_IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
    )


class _Graph:
    """Nodes and constants, named in the order in which they are added."""

    def __init__(self, onnx: ModuleType) -> None:
        self.onnx = onnx
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(
        self, operator: str, *inputs: str, output: str | None = None, **attributes: Any
    ) -> str:
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        node = self.onnx.helper.make_node(operator, inputs, [output], **attributes)
        self.nodes.append(node)
        return output

    def constant(self, array: ArrayLike) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(array, dtype=np.float32)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def affine(self, x: str, weight: Floats, bias: Floats | None = None) -> str:
        inputs = [self.constant(array) for array in (weight, bias) if array is not None]
        return self.add("Gemm", x, *inputs, transB=1)

    def unit_rows(self, x: str) -> str:
        """Rows of unit length; zero rows stay zero, and large ones do not overflow."""
        tiny = self.constant(np.finfo(np.float32).tiny)
        largest = self.add("ReduceMax", self.add("Abs", x), axes=[1])
        x = self.add("Div", x, self.add("Max", largest, tiny))
        length = self.add("ReduceL2", x, axes=[1])
        return self.add("Div", x, self.add("Max", length, tiny))

    def activate(self, x: str, activation: str) -> str:
        if activation == "relu":
            return self.add("Relu", x)
        if activation == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        half = self.add("Mul", x, self.constant(0.5))
        scaled = self.add("Mul", x, self.constant(np.sqrt(0.5)))
        shifted = self.add("Add", self.add("Erf", scaled), self.constant(1))
        return self.add("Mul", half, shifted)  # GELU, exact
