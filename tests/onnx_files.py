"""Small ONNX networks for tests, and an image for them."""

import numpy as np
import pytest


def write_network(file, size=(None, None), channels=3, kind="red", outputs=1, metadata=None, dtype=1, flat=False):
    """Writes a model that returns the red channel of its input, or one that is wrong. size is (height, width)."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    from onnx import TensorProto, helper

    height, width = (side or name for side, name in zip(size, ("h", "w")))
    image = helper.make_tensor_value_info("image", dtype, [1, channels, height, width])
    starts, ends, axes = (
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 2 if kind == "two planes" else 1), ("axis", 1))
    )
    nodes = [helper.make_node("Slice", ["image", "start", "end", "axis"], ["cut"])]
    constants = [starts, ends, axes]
    last = "cut"
    if kind == "vector":
        nodes.append(helper.make_node("GlobalAveragePool", ["cut"], ["pooled"]))
        last = "pooled"
    if flat:
        constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]))
        nodes.append(helper.make_node("Mul", ["cut", "zero"], ["nothing"]))
        last = "nothing"
    names = [f"d{i}" for i in range(outputs)]
    nodes += [helper.make_node("Identity" if i == 0 else "Neg", [last], [name]) for i, name in enumerate(names)]
    results = [helper.make_tensor_value_info(name, dtype, None) for name in names]
    graph = helper.make_graph(nodes, "net", [image], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, file)
    return file


def blob(height=60, width=80):
    """A red rectangle on blue, which is also the network's map."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200
    image[height // 4 : height // 2, width // 4 : width // 2] = (250, 0, 0)
    return image
