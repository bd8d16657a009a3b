"""ONNX graphs, run by onnxruntime.

A graph that ends in a matrix product with constant weights is cut before it, and these are its
head; else its output are the features. `layer` names the output of any node instead. An ONNX
file is data and needs no trust; libraries of custom operators are not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsr_core.errors import CheckpointError, SettingError
from gsr_core.extras import require
from gsr_core.features.heads import OUTPUT
from gsr_core.features.kinds import Built, Request, first_line, preprocessing_from_options
from gsr_core.features.programs import FROZEN, in_batches_of, preprocessing_of_shape, program_file

__all__ = ["OnnxTrunk", "load_onnx"]

AFTER = {"Softmax", "LogSoftmax", "Identity"}
"""What may follow the head without changing which class is the likeliest."""


class OnnxTrunk(nn.Module):
    """A graph as a module; its session is opened once in each process."""

    def __init__(self, graph: bytes, inputs: dict[str, bool], fixed: int | None) -> None:
        """Keep the graph.

        Args:
            graph: The serialised model.
            inputs: Names of its inputs, and whether they are floating.
            fixed: The only batch size that it takes, or None.
        """
        super().__init__()
        self.graph = graph
        self.inputs = inputs
        self.fixed = fixed
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session behind, which cannot go to another process."""
        return self.__dict__ | {"_session": None}

    def forward(self, batch: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the features (n, d) on the batch's device."""
        tensors = [batch] if isinstance(batch, Tensor) else [batch[name] for name in self.inputs]
        return in_batches_of(self.fixed, tensors, self._run)

    def _run(self, *tensors: Tensor) -> Tensor:
        if self._session is None:
            self._session = _open(self.graph)
        arrays = {
            name: tensor.cpu().numpy().astype(np.float32 if floating else np.int64)
            for (name, floating), tensor in zip(self.inputs.items(), tensors, strict=True)
        }
        (output,) = self._session.run(None, arrays)
        return torch.from_numpy(output).to(tensors[0].device).flatten(1).float()


def load_onnx(request: Request) -> Built:
    """Return an ONNX graph.

    Raises:
        SettingError: If it has no node output of the name given.
        CheckpointError: If the file is not an ONNX graph, or onnxruntime does not run it.
        MissingExtraError: If onnx or onnxruntime is not installed.
    """
    onnx = require("onnx", "onnx")
    require("onnxruntime", "onnx")
    file = program_file(request)
    try:
        model = onnx.load(str(file))
        onnx.checker.check_model(model)
    except Exception as error:
        raise CheckpointError(
            f"{file.name} is not an ONNX graph ({first_line(error)}); export the network again"
        ) from error
    graph = model.graph
    constants = {each.name: each for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    floating = {
        each.name: each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for each in inputs
    }
    shape = [
        each.dim_value if each.HasField("dim_value") else None
        for each in inputs[0].type.tensor_type.shape.dim
    ]
    preprocessing = preprocessing_of_shape(shape, floating[inputs[0].name])

    head, features = None, graph.output[0].name
    outputs = {name for node in graph.node for name in node.output}
    if request.layer not in ("", OUTPUT):
        gemm_inputs = {node.name: node.input[0] for node in graph.node if node.op_type == "Gemm"}
        if request.layer not in outputs | set(gemm_inputs):
            raise SettingError(
                f"{request.architecture} has no node output '{request.layer}'; the last ones are "
                f"{', '.join(node.output[0] for node in list(graph.node)[-5:])}"
            )
        features = gemm_inputs.get(request.layer, request.layer)
    elif not request.layer and (last := _last_layer(onnx, graph, constants)) is not None:
        features, *head = last
    n_parameters = sum(int(np.prod(each.dims)) for each in graph.initializer if each.data_type == 1)
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, None))
    content = model.SerializeToString()
    try:
        _open(content)
    except Exception as error:
        raise CheckpointError(
            f"onnxruntime does not run {file.name} ({first_line(error)}); export the network "
            "again, with operators that it has"
        ) from error
    return Built(
        OnnxTrunk(content, floating, shape[0] if shape and shape[0] else None),
        preprocessing_from_options(request, preprocessing),
        trained=True,
        encoder=True,
        head=None if head is None else (head[0], head[1]),
        files=[file],
        facts={"n_parameters": n_parameters, "layer": features},
        frozen=FROZEN,
    )


def _last_layer(
    onnx: Any, graph: Any, constants: Mapping[str, Any]
) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Return the name of the features, weight (K, d) and bias (K,) of the layer at the end."""
    maker = {name: node for node in graph.node for name in node.output}
    node = maker.get(graph.output[0].name)
    while node is not None and node.op_type in AFTER:
        node = maker.get(node.input[0])
    if node is None:
        return None

    def constant(name: str) -> np.ndarray | None:
        return onnx.numpy_helper.to_array(constants[name]) if name in constants else None

    bias = None
    if node.op_type == "Add":
        for product, added in (node.input, reversed(node.input)):
            before = maker.get(product)
            if before is not None and before.op_type == "MatMul" and constant(added) is not None:
                node, bias = before, constant(added)
                break
    if node.op_type not in ("Gemm", "MatMul"):
        return None
    weight = constant(node.input[1])
    if weight is None or weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if settings.get("transA") or settings.get("alpha", 1) != 1 or settings.get("beta", 1) != 1:
            return None
        weight = weight if settings.get("transB") else weight.T
        if len(node.input) > 2 and (bias := constant(node.input[2])) is None:
            return None
    else:
        weight = weight.T
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    zeros = np.zeros(len(weight), np.float32)
    full = zeros if bias is None else np.broadcast_to(bias, zeros.shape).astype(np.float32)
    return node.input[0], weight, full


def _open(content: bytes) -> Any:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    have = runtime.get_available_providers()
    providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in have]
    return runtime.InferenceSession(content, options, providers=providers)
