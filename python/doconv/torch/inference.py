# SPDX-License-Identifier: MIT
"""Networks for inference: convolutions, with what follows them, by plans with packed weights."""
import copy
import dataclasses
import operator
import statistics
import time

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .._library import lib
from ..convolution import Conv
from ..problem import BLOCKS, LAYOUTS, Problem, memory_shape
from ..tuning import info
from .conversion import fold
from .functional import _paddings

# What a graph's values are: tensors as PyTorch has them, or blocked ones, N x C/B x H x W x B.
PLAIN = "plain"


class PackedConv(nn.Module):
    """A convolution with bias, residual and clamp in one call; plans are made as shapes come.

    Its tensors are N x C x H x W, channels last in memory, or blocked. For inference: nothing is
    recorded for derivatives.
    """

    def __init__(self, conv, limits, has_residual, src_layout, dst_layout, options):
        super().__init__()
        weight = conv.weight.detach()
        kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
        top, left, bottom, right = _paddings(conv.padding, kernel, stride, dilation)
        relu = limits == (0.0, None)
        self._problem = Problem(
            n=1, cin=conv.in_channels, h=kernel[0] * dilation[0], w=kernel[1] * dilation[1],
            cout=conv.out_channels, kh=kernel[0], kw=kernel[1], stride_h=stride[0],
            stride_w=stride[1], pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right,
            dilation_h=dilation[0], dilation_w=dilation[1], groups=conv.groups,
            src_layout=src_layout, dst_layout=dst_layout, has_bias=conv.bias is not None,
            residual=has_residual, relu=relu, accuracy=options["accuracy"],
            clamp=None if limits is None or relu else _clamp(limits),
        )  # fmt: skip
        self._weight = weight.contiguous().numpy()
        self._bias = None if conv.bias is None else conv.bias.detach().contiguous().numpy()
        self._tune = options["tune"]
        self._plans = {}

    def plan_for(self, shape):
        """The Conv for a source of this shape (as its tensor has it), on PyTorch's threads now."""
        threads = torch.get_num_threads()
        plan = self._plans.get((shape, threads))
        if plan is None:
            problem = self._problem.replace(n=shape[0], h=shape[2], w=shape[3])
            conv = Conv(
                problem, self._weight, self._bias, tune=self._tune, threads=threads,
                cold_weights=True,
            )  # fmt: skip
            plan = (conv, _dst_shape(problem))
            self._plans[shape, threads] = plan
        return plan

    def forward(self, x, residual=None):
        """dst of src, and of what is added to it."""
        p = self._problem
        x = _as_stored(x, p.src_layout)
        conv, shape = self.plan_for(tuple(x.shape))
        if p.dst_layout == "nhwc":
            y = torch.empty(shape, memory_format=torch.channels_last)
        else:
            y = torch.empty(shape)
        at = None
        if residual is not None:
            residual = _as_stored(residual, p.dst_layout)
            at = residual.data_ptr()
        conv.run_at(x.data_ptr(), y.data_ptr(), at)
        return y

    def extra_repr(self):
        p = self._problem
        return (
            f"{p.cin}, {p.cout}, kernel_size=({p.kh}, {p.kw}), {p.src_layout} -> {p.dst_layout}, "
            f"residual={p.residual}, relu={p.relu}, clamp={p.clamp}"
        )


def _clamp(limits):
    low, high = limits
    return (-float("inf") if low is None else low, float("inf") if high is None else high)


def _dst_shape(problem):
    """The shape of dst's tensor: N, C, H, W, or a blocked one's."""
    shape = problem.replace(dst_layout="nchw").dst_shape
    return shape if problem.dst_layout in ("nchw", "nhwc") else memory_shape(problem.dst_layout,
                                                                             *shape)  # fmt: skip


def _as_stored(x, layout):
    if x.dtype != torch.float32 or x.device.type != "cpu":
        raise TypeError(f"an optimized network takes float32 on the CPU, not {x.dtype} {x.device}")
    if layout == "nhwc":
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


class Reorder(nn.Module):
    """A tensor from one layout to another; channels: how many there are beside the padding."""

    def __init__(self, source, target, channels):
        super().__init__()
        self.source, self.target, self.channels = source, target, channels

    def forward(self, x):
        """The same values in the other layout."""
        source = self.source
        if source == PLAIN:
            nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            source = "nhwc" if nhwc else "nchw"
        x = _as_stored(x, source)
        n, h, w = x.shape[0], x.shape[2], x.shape[3]
        target = "nhwc" if self.target == PLAIN else self.target
        if target == "nhwc":
            y = torch.empty((n, self.channels, h, w), memory_format=torch.channels_last)
        else:
            y = torch.empty(memory_shape(target, n, self.channels, h, w))
        status = lib.doconv_reorder(
            LAYOUTS.index(source), LAYOUTS.index(target), n, self.channels, h, w, x.data_ptr(),
            y.data_ptr(),
        )  # fmt: skip
        if status != 0:
            raise RuntimeError(f"reorder from {source} to {target}: status {status}")
        return y

    def extra_repr(self):
        return f"{self.source} -> {self.target}"


class BlockedPool(nn.Module):
    """A pooling of a blocked tensor: each block is an image of B channels, channels last."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        """Pools H and W."""
        n, blocks, h, w, block = x.shape
        images = x.reshape(n * blocks, h, w, block).permute(0, 3, 1, 2)
        y = self.pool(images).permute(0, 2, 3, 1).contiguous()
        return y.reshape(n, blocks, *y.shape[1:])


# --------------------------------------------------------------------------------- reading a graph


def _limits_of(node, modules):
    """What a node clamps its one input to, (lowest, highest) with None for no limit; or None."""
    if node.op == "call_module":
        module = modules[node.target]
        if type(module) is nn.ReLU:
            return (0.0, None)
        if type(module) is nn.ReLU6:
            return (0.0, 6.0)
        if type(module) is nn.Hardtanh:
            return (float(module.min_val), float(module.max_val))
    elif node.op == "call_function":
        if node.target in (F.relu, torch.relu, torch.relu_):
            return (0.0, None)
        if node.target is F.relu6:
            return (0.0, 6.0)
    elif node.op == "call_method" and node.target in ("relu", "relu_"):
        return (0.0, None)
    return None


def _is_add(node):
    """Is it a sum of two tensors of one shape?"""
    adds = (operator.add, operator.iadd, torch.add)
    if not (
        (node.op == "call_function" and node.target in adds)
        or (node.op == "call_method" and node.target in ("add", "add_"))
    ):
        return False
    if len(node.args) != 2 or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
        return False
    first, second = (_shape(a) for a in node.args)
    return first is not None and first == second


def _shape(node):
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


@dataclasses.dataclass(frozen=True)
class Replaced:
    """What became of a module: the operations that are one call now, or why it stayed."""

    name: str
    what: str
    reason: str = ""


def _refusal(conv, node):
    """Why a Conv2d stays PyTorch's; None: it doesn't."""
    shape = _shape(node)
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode}"
    if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
        return f"{conv.weight.dtype} on {conv.weight.device}"
    if shape is None or len(shape) != 4:
        return "its output is no batch of images"
    return None


def _fold_norms(graph_module):
    """Batch norms right behind a convolution become part of it."""
    modules = dict(graph_module.named_modules())
    for node in list(graph_module.graph.nodes):
        if node.op != "call_module" or type(modules.get(node.target)) is not nn.BatchNorm2d:
            continue
        norm, source = modules[node.target], node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        conv = modules.get(source.target)
        users = [n for n in graph_module.graph.nodes if n.op == "call_module"
                 and n.target == source.target]  # fmt: skip
        if (type(conv) is not nn.Conv2d or len(source.users) != 1 or len(users) != 1
                or norm.running_mean is None):  # fmt: skip
            continue
        fused = fuse_conv_bn_eval(conv, norm)
        _set_module(graph_module, source.target, fused)
        modules[source.target] = fused
        node.replace_all_uses_with(source)
        graph_module.graph.erase_node(node)


def _set_module(graph_module, name, module):
    parent, _, last = name.rpartition(".")
    setattr(graph_module.get_submodule(parent), last, module)


# ------------------------------------------------------------------------------- changing the graph


class _Rewriter:
    """Puts PackedConv in the place of convolutions, with `layout` between them."""

    def __init__(self, graph_module, layout, options):
        self.module, self.graph = graph_module, graph_module.graph
        self.modules = dict(graph_module.named_modules())
        self.layout, self.options = layout, options
        self.blocked = layout in BLOCKS
        self.layouts = {}  # of nodes that aren't plain
        self.done = []
        self.count = 0

    def run(self):
        for node in list(self.graph.nodes):
            if node.op == "call_module" and type(self.modules.get(node.target)) is nn.Conv2d:
                self._replace_conv(node)
        if self.blocked:
            self._spread_layouts()
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.delete_all_unused_submodules()
        self.module.recompile()
        return self.done

    def _add(self, kind, module):
        name = f"doconv_{kind}_{self.count}"
        self.count += 1
        self.module.add_submodule(name, module)
        self.modules[name] = module
        return name

    def _follow(self, node):
        """What can be one call with a convolution: (nodes, residual or None, limits, text)."""
        last, residual, limits, parts, nodes = node, None, None, ["conv"], [node]
        order = {n: i for i, n in enumerate(self.graph.nodes)}
        if len(last.users) == 1:
            (user,) = last.users
            if _is_add(user) and user.args[0] is not user.args[1]:
                other = user.args[1] if user.args[0] is last else user.args[0]
                # Where both are convolutions, the later one takes the sum.
                if order[other] < order[last] or not self._is_conv(other):
                    last, residual = user, other
                    nodes.append(user)
                    parts.append("add")
        if len(last.users) == 1:
            (user,) = last.users
            limits = _limits_of(user, self.modules)
            if limits is not None:
                nodes.append(user)
                parts.append("clamp" if limits != (0.0, None) else "relu")
        return nodes, residual, limits, "+".join(parts)

    def _is_conv(self, node):
        return node.op == "call_module" and type(self.modules.get(node.target)) is nn.Conv2d

    def _replace_conv(self, node):
        conv = self.modules[node.target]
        reason = _refusal(conv, node)
        if reason is not None:
            self.done.append(Replaced(node.target, "", reason))
            return
        nodes, residual, limits, parts = self._follow(node)
        last = nodes[-1]
        source = self.layout
        if self.blocked and conv.in_channels < BLOCKS[self.layout]:
            source = "nchw"
        packed = PackedConv(conv, limits, residual is not None, source, self.layout, self.options)
        name = self._add("conv", packed)
        with self.graph.inserting_before(last):
            args = (node.args[0],) if residual is None else (node.args[0], residual)
            new = self.graph.call_module(name, args)
        new.meta = dict(last.meta)
        last.replace_all_uses_with(new)
        for old in reversed(nodes):
            self.graph.erase_node(old)
        self.done.append(Replaced(node.target, parts))

    def _spread_layouts(self):
        """Between convolutions values stay blocked as long as what takes them can."""
        for node in list(self.graph.nodes):
            module = self.modules.get(node.target) if node.op == "call_module" else None
            if isinstance(module, PackedConv):
                self._want(node, 0, module._problem.src_layout)
                if len(node.args) > 1:
                    self._want(node, 1, self.layout)
                self.layouts[node] = self.layout
                continue
            inputs = [a for a in node.all_input_nodes if self.layouts.get(a)]
            if not inputs:
                continue
            if self._keeps_blocked(node, module):
                self.layouts[node] = self.layout
            else:
                for blocked in inputs:
                    node.replace_input_with(blocked, self._reordered(blocked, PLAIN, node))

    def _keeps_blocked(self, node, module):
        """Can it take blocked tensors? Makes it so where that needs a wrapper."""
        if type(module) in (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d):
            if getattr(module, "return_indices", False):
                return False
            node.target = self._add("pool", BlockedPool(module))
            return True
        if isinstance(module, (nn.Dropout, nn.Identity)) or _limits_of(node, self.modules):
            return True
        return _is_add(node) and all(self.layouts.get(a) for a in node.args)

    def _want(self, node, index, layout):
        argument = node.args[index]
        have = self.layouts.get(argument, PLAIN)
        if have != layout and not (layout in ("nchw", PLAIN) and have == PLAIN):
            node.update_arg(index, self._reordered(argument, layout, node))

    def _reordered(self, node, layout, before):
        channels = _shape(node)[1]
        target = PLAIN if layout == "nchw" else layout
        for user in node.users:  # once for all that want it
            module = self.modules.get(user.target) if user.op == "call_module" else None
            if isinstance(module, Reorder) and module.target == target:
                return user
        name = self._add("reorder", Reorder(self.layouts.get(node, PLAIN), target, channels))
        with self.graph.inserting_before(before):
            new = self.graph.call_module(name, (node,))
        new.meta = dict(node.meta)
        if target != PLAIN:
            self.layouts[new] = target
        return new


# ------------------------------------------------------------------------------ what users call


class Optimized(nn.Module):
    """A network for inference, as optimize() makes it.

    report: what became of each convolution (Replaced). layout: that of the values between
    convolutions. seconds: of a call with the example, by layout that was tried.
    """

    def __init__(self, module, layout, report, seconds):
        super().__init__()
        self.module, self.layout = module, layout
        self.report, self.seconds = tuple(report), dict(seconds)

    def forward(self, *inputs):
        """The network's outputs, without derivatives."""
        with torch.no_grad():
            return self.module(*inputs)

    def summary(self):
        """The report as text."""
        lines = [f"layout {self.layout}: " + ", ".join(
            f"{name} {1e3 * seconds:.2f} ms" for name, seconds in self.seconds.items()
        )]  # fmt: skip
        for item in self.report:
            lines.append(f"  {item.name}: {item.what or 'stays: ' + item.reason}")
        return "\n".join(lines)


def _seconds(module, example):
    """Of one call."""
    with torch.no_grad():
        start = time.perf_counter()
        module(*example)
        return time.perf_counter() - start


def optimize(model, example, *, layout=None, accuracy="default", tune="tune"):
    """A copy of model for inference, whose convolutions are the library's.

    example: an input, or a tuple of them; other shapes work too, and are planned when they come.
    Batch norms are folded into the convolutions before them; a sum and a ReLU (or clamp) behind one
    become part of it. layout: of the values between convolutions, "nhwc" or the instruction set's
    blocked one; None: the faster one, measured on the example. accuracy: "strict", "default",
    "fast". tune: "tune" measures variants that the cache doesn't have, "read" measures none.

    What can't be replaced stays as it is: the result's `report` says what and why. Raises what
    torch.fx raises for a network that it can't trace. The result computes no derivatives.
    """
    example = example if isinstance(example, tuple) else (example,)
    options = {"accuracy": accuracy, "tune": tune}
    block = {"avx512": "nChw16c"}.get(info()["isa"], "nChw8c")
    candidates = ["nhwc", block] if layout is None else [layout]
    if layout is not None and layout not in ("nhwc", *BLOCKS):
        raise ValueError(f"layout: {layout!r} is none of nhwc, {', '.join(BLOCKS)}")
    folded = fold(model).eval()
    if type(folded) is nn.Conv2d:
        folded = nn.Sequential(folded)  # tracing looks inside of what it is given
    traced = fx.symbolic_trace(folded)
    _fold_norms(traced)
    traced.recompile()
    with torch.no_grad():
        ShapeProp(traced).propagate(*example)
    found = {}
    for name in candidates:
        module = copy.deepcopy(traced)
        report = _Rewriter(module, name, options).run()
        for _ in range(2):  # plans, and pages
            _seconds(module, example)
        found[name] = (module, report)
    seconds = {}
    if len(candidates) > 1:
        samples = {name: [] for name in candidates}
        for _ in range(7):  # in turns, so that what disturbs one disturbs the other
            for name, (module, _) in found.items():
                samples[name].append(_seconds(module, example))
        seconds = {name: statistics.median(values) for name, values in samples.items()}
    best = min(seconds, key=seconds.get) if seconds else candidates[0]
    module, report = found[best]
    return Optimized(module, best, report, seconds)
