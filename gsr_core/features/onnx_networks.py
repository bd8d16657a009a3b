"""ONNX graphs, run by onnxruntime.

A graph that ends in a matrix product with constant weights is cut before it, and these are its
head; else its output are the features. `layer` names the output of any node instead. An ONNX
file is data and needs no trust; libraries of custom operators are not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gsr_core.errors import CheckpointError, SettingError
from gsr_core.extras import require
from gsr_core.features.heads import OUTPUT
from gsr_core.features.kinds import Built, Request, first_line, preprocessing_from_options
from gsr_core.features.merging import Merge, Written
from gsr_core.features.programs import FROZEN, in_batches_of, preprocessing_of_shape, program_file

__all__ = ["OnnxTrunk", "load_onnx", "write_onnx"]

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
        features, head = last.features, (last.weight, last.bias)
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
        head=head,
        files=[file],
        facts={"n_parameters": n_parameters, "layer": features},
        frozen=FROZEN,
    )


@dataclass(frozen=True)
class _LastLayer:
    """The layer at the end of a graph.

    Attributes:
        features: Name of its input.
        output: Name of its output.
        weight: (K, d) float32.
        bias: (K,) float32.
        nodes: What it is made of: the product, and what adds the bias.
    """

    features: str
    output: str
    weight: np.ndarray
    bias: np.ndarray
    nodes: list[Any]


def _last_layer(onnx: Any, graph: Any, constants: Mapping[str, Any]) -> _LastLayer | None:
    """Return the layer at the end of a graph, None if it is not linear with constant numbers."""
    maker = {name: node for node in graph.node for name in node.output}
    node = maker.get(graph.output[0].name)
    while node is not None and node.op_type in AFTER:
        node = maker.get(node.input[0])
    if node is None:
        return None

    def constant(name: str) -> np.ndarray | None:
        return onnx.numpy_helper.to_array(constants[name]) if name in constants else None

    bias, nodes, output = None, [node], node.output[0]
    if node.op_type == "Add":
        for product, added in (node.input, reversed(node.input)):
            before = maker.get(product)
            if before is not None and before.op_type == "MatMul" and constant(added) is not None:
                node, bias, nodes = before, constant(added), [before, node]
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
    return _LastLayer(node.input[0], output, weight, full, nodes)


def _open(content: bytes) -> Any:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    have = runtime.get_available_providers()
    providers = [each for each in ("CUDAExecutionProvider", "CPUExecutionProvider") if each in have]
    return runtime.InferenceSession(content, options, providers=providers)


def write_onnx(merge: Merge, folder: Path) -> Written:
    """Write the graph with other constants in its last matrix product, and a bias if it had none.

    Raises:
        SettingError: If it does not end in a matrix product with constants.
    """
    onnx = require("onnx", "onnx")
    trunk = merge.backbone.trunk
    assert isinstance(trunk, OnnxTrunk)
    if merge.backbone.head is None:
        merge.refuse()
    model = onnx.load(str(merge.program))
    graph = model.graph
    last = _last_layer(onnx, graph, {each.name: each for each in graph.initializer})
    assert last is not None
    place = min(list(graph.node).index(node) for node in last.nodes)
    gemm = last.nodes[0].op_type == "Gemm"
    numbers = {
        "merged_head.weight": merge.weight if gemm else merge.weight.T,
        "merged_head.bias": merge.bias,
    }
    for node in last.nodes:
        graph.node.remove(node)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in numbers.items()
    )
    make = onnx.helper.make_node
    weight, bias = numbers
    nodes = (
        [make("Gemm", [last.features, weight, bias], [last.output], name="merged_head", transB=1)]
        if gemm
        else [
            make("MatMul", [last.features, weight], ["merged_head.product"], name="merged_head"),
            make("Add", ["merged_head.product", bias], [last.output], name="merged_head.add"),
        ]
    )
    for node in reversed(nodes):
        graph.node.insert(place, node)
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    # Shapes that were noted for what follows the head are of other classes.
    del graph.value_info[:]
    for output in graph.output:
        if output.type.tensor_type.HasField("shape"):
            sides = output.type.tensor_type.shape.dim
            if output.name == graph.output[0].name and sides:
                sides[-1].Clear()
                sides[-1].dim_value = len(merge.classes)
    onnx.helper.set_model_props(
        model,
        {each.key: each.value for each in model.metadata_props}
        | {"classes": json.dumps(merge.classes)},
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    return Written(
        "of_onnx",
        "onnxruntime.InferenceSession('model.onnx')",
        about={"batch_size": trunk.fixed},
    )
