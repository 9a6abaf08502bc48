"""ONNX files: a saliency network of one convolution, corrupted as bytes, as a graph, and in its metadata."""

from contextlib import suppress
from pathlib import Path
from random import Random

from . import corrupt
from .commands import fgdata, preload
from .images import encode

PRELOAD = ("fgdata.building.build", "fgdata.saliency.onnx_model", "onnx", "onnxruntime", "cv2")


MEMORY = 8 << 30
"""What a network may take: the limit of its trial."""


def prepare(folder: Path) -> None:
    preload(*PRELOAD)
    (folder / "images").mkdir()
    (folder / "images" / "a.jpg").write_bytes(encode("jpg"))
    (folder / "net.onnx").write_bytes(model())


def model(kind: str = "", side: object = 16) -> bytes:
    """(1, 3, side, side) -> (1, 1, side, side), by a mean over channels; `kind` puts something hostile inside."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)]
    initializers = []
    shape = [1, 3, side, side]
    if kind == "loop":
        body = helper.make_graph(
            [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
                helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
            ],
        )
        nodes = [helper.make_node("ReduceMax", ["x"], ["y0"], axes=[1], keepdims=1)]
        nodes.append(helper.make_node("Loop", ["n", "t", "y0"], ["y"], body=body))
        initializers = [numpy_helper.from_array(np.array(2**62), "n"), numpy_helper.from_array(np.array(True), "t")]
    elif kind == "huge":
        initializers = [numpy_helper.from_array(np.array([1, 15_000, 15_000]), "s")]
        nodes = [helper.make_node("Expand", ["y0", "s"], ["y"])]
        nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["y0"], axes=[0, 1, 2, 3], keepdims=0))
    elif kind == "external":
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../outside/canary.txt")
        initializers, nodes = [tensor], [*nodes[:0], helper.make_node("ReduceMax", ["x"], ["y0"], axes=[1])]
        nodes.append(helper.make_node("Add", ["y0", "w"], ["y"]))
    elif kind == "nan":
        initializers = [numpy_helper.from_array(np.array(np.nan, "f4"), "w")]
        nodes = [helper.make_node("ReduceMax", ["x"], ["y0"], axes=[1]), helper.make_node("Add", ["y0", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def build(name: str = "onnx:net.onnx", *flags: str) -> int:
    with suppress(ImportError):  # the trial of a model waits two minutes for one that loops
        from fgdata.saliency import onnx_trial  # pyright: ignore[reportAttributeAccessIssue]

        onnx_trial.SECONDS = 15
    return fgdata("build-shards", "--dataset", "flat", "--root", "images", "--out", "out", "--saliency", name, *flags)


COMMANDS = {
    "build": build,
    "sized": lambda: build("onnx:net.onnx,size=16,mean=.5:.5:.5,std=1:1:1", "--keep-maps"),
}
FAILING = ()


def corrupt_input(rng: Random, here: Path, command: str) -> str:
    path = here / "net.onnx"
    if rng.random() < 0.4:
        return corrupt.corrupt_file(rng, path)
    import onnx

    corrupt.remove(path)
    if rng.random() < 0.5:
        kind, side = rng.choice(("loop", "huge", "external", "nan", "")), rng.choice((16, "s", 2**40, 100_000, 0, 1))
        path.write_bytes(model(kind, side))
        return f"net.onnx: {kind} of side {side}"
    net = onnx.load_from_string(model(side="s"))
    key = rng.choice(("size", "mean", "std"))
    value = str(rng.choice((*corrupt.WORDS, *corrupt.NUMBERS, "1:1:1", "9x9x9")))
    net.metadata_props.add(key=key, value=value.encode("utf-8", "replace").decode())
    path.write_bytes(net.SerializeToString())
    return f"net.onnx: metadata {key} = {value[:40]!r}"
