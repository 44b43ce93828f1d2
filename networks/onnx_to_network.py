#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the convolutions of an ONNX model as a network file with edges (README.md beside this).

usage: onnx_to_network.py MODEL.onnx [NETWORK.tsv]

Without NETWORK.tsv the file goes to stdout. A BatchNormalization is folded into the Conv before it,
an Add of two convolutions' outputs into the later one, a Relu or a Clip to 0..6 into what is before
it, each only where nothing else reads the value between. Concat along channels becomes several
inputs. Anything else passes through: it stands between two layers. Needs the Python package onnx.
"""
import sys

COLUMNS = ("name input residual post bias ci h w co kh kw sh sw pt pl pb pr dh dw groups").split()


class Unusable(Exception):
    """A model that can't be written."""


class Value:
    """A tensor: the layers whose outputs it holds, by name ("-": the model's input), and the one
    whose output it is as it stands."""

    def __init__(self, layers, direct=None):
        self.layers, self.direct = layers, direct


class Converter:
    """Walks the nodes of a model in their order, which ONNX promises is one in which they run."""

    def __init__(self, onnx, model):
        self.onnx = onnx
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.constants = {t.name: t for t in graph.initializer}
        self.dims = {}
        for info in [*graph.input, *graph.value_info, *graph.output]:
            self.dims[info.name] = [d.dim_value for d in info.type.tensor_type.shape.dim]
        self.readers = {}
        for name in [o.name for o in graph.output] + [i for n in graph.node for i in n.input]:
            self.readers[name] = self.readers.get(name, 0) + 1
        self.values = {i.name: Value(["-"]) for i in graph.input if i.name not in self.constants}
        self.rows, self.channels = {}, {"-": None}
        for node in graph.node:
            self.take(node)
        if not self.rows:
            raise Unusable("the model has no convolution")

    def take(self, node):
        """A node: what its output holds."""
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            if "value" in attributes:
                self.constants[node.output[0]] = attributes["value"]
            return
        read = [self.values[i] for i in node.input if i in self.values]
        if not read:
            return
        if node.op_type == "Conv":
            value = self.convolution(node, attributes, read[0])
        elif node.op_type == "Concat" and attributes.get("axis") == 1:
            value = Value([layer for v in read for layer in v.layers])
        else:
            value = self.fuse(node, attributes, read) or Value(read[0].layers)
        for output in node.output:
            self.values[output] = value

    def convolution(self, node, attributes, source):
        """Adds a row."""
        weight = self.constants.get(node.input[1])
        weight_dims = list(weight.dims) if weight is not None else self.dims.get(node.input[1], [])
        name = self.name_of(node)
        image = self.dims.get(node.input[0], [])
        if len(weight_dims) != 4 or len(image) != 4 or 0 in weight_dims + image[1:]:
            raise Unusable(f"{name}: no convolution of images whose sizes are known; export the "
                           "model with fixed ones")
        co, group_ci, kh, kw = weight_dims
        groups = attributes.get("group", 1)
        known = [self.channels[layer] for layer in source.layers]
        if source.layers == ["-"]:
            known = [self.channels["-"] or group_ci * groups]
            self.channels["-"] = known[0]
        if None in known or sum(known) != group_ci * groups:
            raise Unusable(f"{name}: what it reads aren't the channels of other layers")
        strides = attributes.get("strides", [1, 1])
        dilations = attributes.get("dilations", [1, 1])
        pads = self.pads(attributes, image[2:], (kh, kw), strides, dilations)
        self.rows[name] = dict(zip(COLUMNS, [
            name, ",".join(source.layers), "-", "none", int(len(node.input) > 2),
            group_ci * groups, *image[2:], co, kh, kw, *strides, *pads, *dilations, groups]))
        self.channels[name] = co
        return Value([name], name)

    @staticmethod
    def pads(attributes, image, kernel, strides, dilations):
        """Top, left, bottom, right."""
        auto = attributes.get("auto_pad", b"NOTSET").decode()
        if auto not in ("SAME_UPPER", "SAME_LOWER"):
            return [0] * 4 if auto == "VALID" else attributes.get("pads", [0] * 4)
        before, after = [], []
        for size, taps, stride, dilation in zip(image, kernel, strides, dilations):
            outputs = -(-size // stride)
            total = max((outputs - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
            more = total - total // 2
            before.append(more if auto == "SAME_LOWER" else total // 2)
            after.append(total - before[-1])
        return before + after

    def name_of(self, node):
        """The weight's name in the framework, if there is one, else the node's."""
        name = node.input[1].removesuffix(".weight")
        if name == node.input[1]:
            name = node.name or node.output[0]
        name = "".join(c if " " < c <= "~" and c != "," else "_" for c in name)
        name = name if name not in ("", "-") else "conv"
        unique, number = name, 1
        while unique in self.rows:
            number += 1
            unique = f"{name}#{number}"
        return unique

    def open_row(self, tensor):
        """The row that a tensor is the output of, if nothing else reads it or follows yet."""
        value = self.values.get(tensor)
        if value is None or value.direct is None or self.readers.get(tensor) != 1:
            return None
        row = self.rows[value.direct]
        return row if row["post"] == "none" else None

    def fuse(self, node, attributes, read):
        """What a node's output is if it is part of a row, else None."""
        row = self.open_row(node.input[0])
        if node.op_type == "Add" and len(read) == 2:
            return self.add(node)
        if row is None:
            return None
        if node.op_type == "Relu" or node.op_type == "Clip" and self.is_relu6(node, attributes):
            row["post"] = "relu" if node.op_type == "Relu" else "relu6"
        elif node.op_type == "BatchNormalization" and row["residual"] == "-":
            row["bias"] = 1
        elif node.op_type != "Identity":
            return None
        return Value([row["name"]], row["name"])

    def add(self, node):
        """A sum becomes the residual of the later of two layers."""
        order = list(self.rows)
        for own, other in (node.input, node.input[::-1]):
            row, added = self.open_row(own), self.values[other].layers
            if (row is not None and row["residual"] == "-" and len(added) == 1 and
                    added[0] in self.rows and
                    order.index(added[0]) < order.index(row["name"]) and
                    self.rows[added[0]]["co"] == row["co"]):
                row["residual"] = added[0]
                return Value([row["name"]], row["name"])
        return None

    def is_relu6(self, node, attributes):
        """Is a Clip to 0..6? Its bounds are attributes or constants."""
        bounds = [attributes.get("min"), attributes.get("max")]
        for i, name in enumerate(node.input[1:3]):
            if name in self.constants:
                bounds[i] = float(self.onnx.numpy_helper.to_array(self.constants[name]))
        return bounds == [0.0, 6.0]

    def text(self):
        """The file."""
        lines = [COLUMNS] + [[str(row[c]) for c in COLUMNS] for row in self.rows.values()]
        return "".join("\t".join(line) + "\n" for line in lines)


def main(arguments):
    """Returns the exit status."""
    if len(arguments) not in (1, 2) or arguments[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        import onnx  # pylint: disable=import-outside-toplevel
    except ImportError:
        print("onnx_to_network.py: needs the Python package onnx (pip install onnx)",
              file=sys.stderr)
        return 2
    try:
        text = Converter(onnx, onnx.load(arguments[0], load_external_data=False)).text()
        if len(arguments) == 2:
            with open(arguments[1], "w", encoding="ascii") as file:
                file.write(text)
        else:
            sys.stdout.write(text)
    except Exception as error:  # pylint: disable=broad-except # onnx has no class for a bad file
        print(f"onnx_to_network.py: {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
