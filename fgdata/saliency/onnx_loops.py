"""Whether the loops of an ONNX model end on every image, from the file alone.

A trial on one image (onnx_trial.py) shows nothing about a loop whose length depends on the image: such a model passes
it and then hangs in a build. So a loop must state how often it runs at most: as a constant, which its condition can
only make less. Operators that run once for every element of a tensor or a sequence (Scan, SequenceMap) state nothing.
Other operators end: what they do is bounded by the size of their tensors.
"""

from collections.abc import Iterator
from typing import Any

MOST_ITERATIONS = 10_000
"""Of all loops of a model together; those of an inner loop count each time that the outer one runs."""
_UNSTATED = (b"Scan", b"SequenceMap")
_INT64 = 7  # TensorProto.DataType

_Scope = dict[bytes, int | None]
"""The value of each name that a graph defines; None if it is not a constant whole number."""


def find_endless_loop(model: Any) -> str | None:
    """The message Model (onnx_file.py) -> what is wrong with a loop, to follow the file's name; None if nothing."""
    try:
        for function in model.functions:
            if any(node.operator in (b"Loop", *_UNSTATED) for node in _walk(function)):
                raise ValueError("has a function with a loop, which must be in the graph itself")
        count = _count_iterations(model.graph, ())
    except ValueError as fault:
        return str(fault)
    if count > MOST_ITERATIONS:
        return f"has loops that run {count:,} times; allowed: {MOST_ITERATIONS:,}"
    return None


def _count_iterations(graph: Any, outer: tuple[_Scope, ...]) -> int:
    """How often the bodies of all loops in a graph run at most. ValueError if a loop does not state it."""
    scopes, total = (_define(graph, is_inner=bool(outer)), *outer), 0
    for node in graph.node:
        inside = sum(_count_iterations(inner, scopes) for inner in _subgraphs(node))
        if node.operator in _UNSTATED:
            raise ValueError(f"has an operator {node.operator.decode()}, which does not state how often it runs")
        if node.operator == b"Loop":
            name = node.input[0] if node.input else b""
            times = next((scope[name] for scope in scopes if name in scope), None)
            if times is None:
                raise ValueError("has a loop whose number of iterations is not a constant")
            inside = max(0, times) * (1 + inside)
        total += inside
    return total


def _define(graph: Any, is_inner: bool) -> _Scope:
    """What each name in a graph is. The inputs of an inner graph differ each time that it runs."""
    inputs: _Scope = {value.name: None for value in graph.input}
    initial: _Scope = {tensor.name: _read(tensor) for tensor in graph.tensors}
    initial |= {tensor.values.name: None for tensor in graph.sparse}
    scope = initial | inputs if is_inner else inputs | initial
    for node in graph.node:
        scope |= dict.fromkeys(node.output)
        if node.operator == b"Constant" and len(node.output) == 1:
            scope[node.output[0]] = next(
                (
                    _read(value.t) if value.name == b"value" else value.i
                    for value in node.attribute
                    if value.name in (b"value", b"value_int")
                ),
                None,
            )
    return scope


def _read(tensor: Any) -> int | None:
    """The value of a tensor of one int64 that is stored in the file; None for any other."""
    if tensor.type != _INT64 or tensor.external:
        return None
    if len(tensor.raw) == 8 and not tensor.int64s:
        return int.from_bytes(tensor.raw, "little", signed=True)
    return tensor.int64s[0] if len(tensor.int64s) == 1 and not tensor.raw else None


def _subgraphs(node: Any) -> Iterator[Any]:
    for value in node.attribute:
        if value.HasField("g"):
            yield value.g
        yield from value.graphs


def _walk(graph: Any) -> Iterator[Any]:
    """The nodes of a graph or a function, at any depth."""
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _walk(inner)
