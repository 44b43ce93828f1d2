#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""networks/onnx_to_network.py on a small model; skipped where Python has no package onnx.

usage: test_onnx_to_network.py NETWORKS_DIRECTORY
"""
import os
import subprocess
import sys
import tempfile

SCRIPT = os.path.join(sys.argv[1], "onnx_to_network.py")
SKIPPED = 77

EXPECTED = """\
name input residual post bias ci h w co kh kw sh sw pt pl pb pr dh dw groups
stem - - relu6 1 3 16 16 8 3 3 2 2 1 1 0 0 1 1 1
a stem - relu 1 8 4 4 8 3 3 1 1 1 1 1 1 1 1 1
b a - none 0 8 4 4 8 1 1 1 1 0 0 0 0 1 1 1
down stem b relu 0 8 4 4 8 1 1 1 1 0 0 0 0 1 1 1
wide down down none 0 8 4 4 8 3 3 1 1 2 2 2 2 2 2 8
last wide,down - none 0 16 4 4 5 1 1 1 1 0 0 0 0 1 1 1
"""


def run(*arguments, **environment):
    """The script."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True,
                          check=False, env={**os.environ, **environment})


def expect(good, detail):
    """Ends the test if it isn't so."""
    if not good:
        sys.exit(f"FAILED: {detail}")


def model(onnx):
    """Folded normalisation, a pooling, a block with a downsampling layer, an identity, a concat."""
    helper, tensor = onnx.helper, onnx.TensorProto.FLOAT
    weights = {"stem": (8, 3, 3, 3), "a": (8, 8, 3, 3), "b": (8, 8, 1, 1), "down": (8, 8, 1, 1),
               "wide": (8, 1, 3, 3), "last": (5, 16, 1, 1)}
    constants = [helper.make_tensor(name + ".weight", tensor, dims, [0.0] * dims[0] * dims[1] *
                                    dims[2] * dims[3]) for name, dims in weights.items()]
    constants += [helper.make_tensor("zero", tensor, [], [0.0]),
                  helper.make_tensor("six", tensor, [], [6.0]),
                  helper.make_tensor("eight", tensor, [8], [1.0] * 8)]

    def conv(name, source, bias=(), **attributes):
        return helper.make_node("Conv", [source, name + ".weight", *bias], [name], **attributes)

    nodes = [
        conv("stem", "x", strides=[2, 2], auto_pad="SAME_LOWER"),
        helper.make_node("BatchNormalization", ["stem"] + ["eight"] * 4, ["n"]),
        helper.make_node("Clip", ["n", "zero", "six"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("a", "p", ["eight"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ar"]),
        conv("b", "ar"),
        conv("down", "p"),
        helper.make_node("Add", ["b", "down"], ["s"]),
        helper.make_node("Relu", ["s"], ["sr"]),
        conv("wide", "sr", pads=[2, 2, 2, 2], dilations=[2, 2], group=8),
        helper.make_node("Add", ["sr", "wide"], ["t"]),
        helper.make_node("Concat", ["t", "sr"], ["u"], axis=1),
        conv("last", "u"),
        helper.make_node("Sigmoid", ["last"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", tensor, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", tensor, [1, 5, 4, 4])], constants)
    return helper.make_model(graph)


with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "onnx.py"), "w", encoding="ascii") as stub:
        stub.write("raise ImportError\n")
    result = run("model.onnx", PYTHONPATH=folder)
    expect(result.returncode == 2 and "pip install onnx" in result.stderr, result.stderr)
    result = run()
    expect(result.returncode == 2 and "usage:" in result.stderr, result.stderr)
    try:
        import onnx as package
    except ImportError:
        print("skipped: Python has no package onnx")
        sys.exit(SKIPPED)
    source, target = os.path.join(folder, "small.onnx"), os.path.join(folder, "small.tsv")
    package.save(model(package), source)
    result = run(source, target)
    expect(result.returncode == 0, result.stderr)
    with open(target, encoding="ascii") as file:
        lines = file.read().replace("\t", " ")
    expect(lines == EXPECTED, lines)
    result = run(source)
    expect(result.returncode == 0 and result.stdout.replace("\t", " ") == lines, result.stderr)
    with open(source, "wb") as file:
        file.write(b"no model at all")
    result = run(source)
    expect(result.returncode == 1 and source in result.stderr, result.stderr)
