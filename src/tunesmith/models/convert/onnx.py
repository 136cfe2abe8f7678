"""The little of ONNX that a converter needs: a graph's constants and its operations, read without the onnx package.

Field numbers are those of onnx.proto (ModelProto 7 graph; GraphProto 1 node, 5 initializer; NodeProto 1 input,
2 output, 4 op_type; TensorProto 1 dims, 2 data_type, 4 float_data, 5 int32_data, 8 name, 9 raw_data).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}


@dataclass(frozen=True)
class Node:
    """An operation: its type and the names of what goes in and comes out."""

    kind: str
    inputs: list[str]
    outputs: list[str]


def read(path: Path) -> tuple[dict[str, np.ndarray], list[Node]]:
    """The constants of the graph in ``path`` by name, and its operations in order."""
    (graph,) = (value for number, value in _fields(memoryview(path.read_bytes())) if number == 7)
    constants: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    for number, value in _fields(_message(graph)):
        if number == 1:
            nodes.append(_node(_message(value)))
        elif number == 5:
            name, array = _tensor(_message(value))
            constants[name] = array
    return constants, nodes


def _node(message: memoryview) -> Node:
    fields = [(number, bytes(value).decode()) for number, value in _fields(message) if number in (1, 2, 4)]
    (kind,) = (value for number, value in fields if number == 4)
    return Node(kind, [v for number, v in fields if number == 1], [v for number, v in fields if number == 2])


def _tensor(message: memoryview) -> tuple[str, np.ndarray]:
    shape: list[int] = []
    kind, name, raw, numbers = 0, "", b"", []
    for number, value in _fields(message):
        if number == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = bytes(_message(value)).decode()
        elif number in (4, 9):
            raw += bytes(_message(value))
        elif number == 5:
            numbers += [value] if isinstance(value, int) else _varints(value)
    if kind not in _TYPES:
        raise ValueError(f"the ONNX constant {name} is of type {kind}, which is not read here")
    array = np.array(numbers, _TYPES[kind]) if numbers else np.frombuffer(raw, _TYPES[kind])
    return name, array.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message: an integer, or the bytes of anything else."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
        else:
            size, at = _varint(message, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            yield tag >> 3, message[at : at + size]
            at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(message: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("an ONNX field that should hold a message holds a number")
    return value
