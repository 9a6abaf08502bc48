"""Loops in ONNX models, which must state how often they run, and networks that fail on one image."""

import pytest
from onnx_files import blob, write_network
from shard_files import dataset, jpeg

from fgdata import saliency
from fgdata.building.build import build
from fgdata.errors import DetectorError, InputError, NotEnoughMemory
from fgdata.saliency import detector, onnx_model, onnx_trial
from fgdata.saliency.onnx_file import hash_files

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
from onnx import TensorProto, helper  # noqa: E402


def value(name: str, kind: int = TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def whole(name: str, number: int, shape=(), raw: bool = False):
    data = number.to_bytes(8, "little", signed=True) if raw else [number]
    return helper.make_tensor(name, TensorProto.INT64, shape, data, raw=raw)


def loop(times: str, start: str, end: str, depth: int = 1, inner: str = "n", tensors=()):
    """A Loop that adds `one` to its value each time; with a depth above 1, by another loop in its body."""
    i = f"{end}_"
    step = helper.make_node("Add", [f"{i}v", "one"], [f"{i}w"])
    if depth > 1:
        step = loop(inner, f"{i}v", f"{i}w", depth - 1, inner)
    body = helper.make_graph(
        [helper.make_node("Identity", [f"{i}c"], [f"{i}d"]), step],
        f"{i}body",
        [value(f"{i}i", TensorProto.INT64, []), value(f"{i}c", TensorProto.BOOL, []), value(f"{i}v")],
        [value(f"{i}d", TensorProto.BOOL, []), value(f"{i}w")],
        list(tensors),
    )
    return helper.make_node("Loop", [times, "true", start], [end], body=body)


def write(file, nodes, tensors=(), functions=()):
    """(1, 3, 16, 16) x -> y. All models have the constants `true`, `one` and `n`, which is 3."""
    known = [
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        whole("n", 3),
    ]
    used = {tensor.name for tensor in tensors}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", shape=[1, 3, 16, 16])],
        [value("y")],
        [tensor for tensor in known if tensor.name not in used] + list(tensors),
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid("own", 1)] if functions else [])]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9, functions=functions), file)
    return file


RED = helper.make_node("ReduceMax", ["x"], ["v"], axes=[1], keepdims=1)


@pytest.mark.parametrize(
    ("tensors", "nodes"),
    [
        ([], []),
        ([whole("m", 10_000)], []),
        ([whole("m", 10_000, (1,), raw=True)], []),
        ([], [helper.make_node("Constant", [], ["m"], value=whole("", 7))]),
        ([], [helper.make_node("Constant", [], ["m"], value_int=7)]),
    ],
    ids=["initializer", "the most", "raw", "constant", "constant number"],
)
def test_a_loop_with_a_constant_number_of_iterations_is_accepted(tmp_path, tensors, nodes):
    times = "m" if tensors or nodes else "n"
    file = write(tmp_path / "net.onnx", [RED, *nodes, loop(times, "v", "y")], tensors)
    assert list(hash_files(file)) == ["net.onnx"]


def test_loops_in_a_loop_run_and_are_counted_together(tmp_path):
    """3 x (1 + 3) = 12 iterations; 70 x (1 + 142) = 10,010 and 69 x (1 + 142) = 9,867 of the 10,000 allowed."""
    pytest.importorskip("onnxruntime")
    map_ = detector(f"onnx:{write(tmp_path / 'net.onnx', [RED, loop('n', 'v', 'y', 2)])}").saliency_map(blob())
    assert map_.max() == 1
    nodes = [RED, loop("m", "v", "y", 2)]
    hash_files(write(tmp_path / "most.onnx", nodes, [whole("m", 69), whole("n", 142)]))
    file = write(tmp_path / "more.onnx", nodes, [whole("m", 70), whole("n", 142)])
    with pytest.raises(InputError, match=r"more.onnx has loops that run 10,010 times; allowed: 10,000\. .*onnxsim"):
        hash_files(file)


def shadowed():
    """The inner loop's count `n` is a constant outside and the counter of the outer loop inside."""
    node = loop("n", "v", "y", 2)
    body = node.attribute[0].g
    body.input[0].name = "n"
    return node


def counted():
    """The number of bright pixels of the image."""
    return [
        helper.make_node("NonZero", ["v"], ["where"]),
        helper.make_node("Size", ["where"], ["m"]),
        loop("m", "v", "y"),
    ]


def scan():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Identity", ["e"], ["o"])],
        "body",
        [value("s"), value("e")],
        [value("s2"), value("o")],
    )
    return helper.make_node("Scan", ["one", "v"], ["total", "y"], body=body, num_scan_inputs=1)


def in_branches(node):
    branch = helper.make_graph([node], "then", [], [value("y1")])
    other = helper.make_graph([helper.make_node("Identity", ["v"], ["y2"])], "else", [], [value("y2")])
    return helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=other)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([loop("", "v", "y")], "has a loop whose number of iterations is not a constant"),
        (counted(), "has a loop whose number of iterations is not a constant"),
        ([shadowed()], "has a loop whose number of iterations is not a constant"),
        ([in_branches(loop("", "v", "y1"))], "has a loop whose number of iterations is not a constant"),
        ([in_branches(loop("big", "v", "y1"))], "has loops that run 4,611,686,018,427,387,904 times"),
        ([loop("big", "v", "y")], "has loops that run 4,611,686,018,427,387,904 times"),
        ([scan()], "has an operator Scan, which does not state how often it runs"),
    ],
    ids=["without", "by the image", "shadowed", "in a branch", "many in a branch", "many", "scan"],
)
def test_a_loop_that_may_not_end_on_some_image_is_refused_before_its_trial(tmp_path, monkeypatch, nodes, message):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_model, "try_model", lambda *_: pytest.fail("it was tried"))
    file = write(tmp_path / "net.onnx", [RED, *nodes], [whole("big", 1 << 62)])
    with pytest.raises(InputError, match=rf"net\.onnx {message}.*Export the model again.*tracing"):
        detector(f"onnx:{file}")


def test_external_and_overridden_numbers_are_not_constants(tmp_path):
    times = whole("m", 5, raw=True)
    times.data_location = TensorProto.EXTERNAL
    times.external_data.add(key="location", value="net.data")
    file = write(tmp_path / "net.onnx", [RED, loop("m", "v", "y")], [times])
    with pytest.raises(InputError, match="is not a constant"):
        hash_files(file)
    double = [RED, helper.make_node("Identity", ["n"], ["m"]), loop("m", "v", "y")]
    with pytest.raises(InputError, match="is not a constant"):
        hash_files(write(tmp_path / "net.onnx", double))


def test_a_constant_of_an_older_file_is_listed_among_the_inputs_too(tmp_path):
    """Before IR version 4 every initializer had to be an input; nobody gives it another value."""
    model = onnx.load(write(tmp_path / "net.onnx", [RED, loop("n", "v", "y")]))
    model.graph.input.append(value("n", TensorProto.INT64, []))
    onnx.save(model, tmp_path / "net.onnx")
    assert list(hash_files(tmp_path / "net.onnx")) == ["net.onnx"]


def test_a_loop_in_a_function_is_refused(tmp_path):
    operators = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Repeat", ["n", "true", "one", "v"], ["y"], [loop("n", "v", "y")], operators)
    call = helper.make_node("Repeat", ["n", "true", "one", "v"], ["y"], domain="own")
    with pytest.raises(InputError, match="has a function with a loop"):
        hash_files(write(tmp_path / "net.onnx", [RED, call], functions=[function]))


def test_a_model_that_takes_all_memory_is_refused(tmp_path, monkeypatch):
    """Its output takes 40 GB. Some versions of onnxruntime compute it while they open the model."""
    pytest.importorskip("onnxruntime")
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, 100_000, 100_000])
    file = write(tmp_path / "net.onnx", [helper.make_node("ConstantOfShape", ["shape"], ["y"])], [shape])
    monkeypatch.setattr(onnx_trial, "MEMORY", 4 << 30)
    with pytest.raises(InputError, match=r"net.onnx needs more memory (for one image than the 4,096 MiB|to be opened)"):
        detector(f"onnx:{file}")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("std::bad_alloc", NotEnoughMemory, r"^[ab]\.jpg: not enough memory for this image"),
        (
            "[ONNXRuntimeError] : Failed to allocate memory for requested buffer",
            NotEnoughMemory,
            r"^[ab]\.jpg: ",
        ),
        ("CUDA failure 2: out of memory ; GPU=0", NotEnoughMemory, r"^[ab]\.jpg: not enough memory for this image"),
        (
            "CUDA failure 700: an illegal memory access",
            DetectorError,
            r"^[ab]\.jpg: .*net\.onnx fails .*failure 700",
        ),
    ],
)
@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_a_network_that_fails_on_an_image_names_both_and_skips_no_image(
    tmp_path, monkeypatch, fault, kind, message, rule
):
    """The image may be good: a device was lost, or memory ran out."""
    pytest.importorskip("onnxruntime")
    name = f"onnx:{write_network(tmp_path / 'net.onnx', size=(16, 16))}"
    saliency.open_once.cache_clear()
    network = saliency.open_once(name)
    session, calls = network._session, []

    class Failing:
        def run(self, outputs, inputs):
            calls.append(inputs)
            if len(calls) == 2:
                raise RuntimeError(fault)
            return session.run(outputs, inputs)

    monkeypatch.setattr(network, "_session", Failing())
    images = dataset(tmp_path, {"a.jpg": jpeg(), "b.jpg": jpeg()})
    with pytest.raises(kind, match=message):
        build(images, tmp_path / "set", saliency=(name,), on_bad_image=rule)
    assert not (tmp_path / "set" / "manifest.json").exists()
