# SPDX-License-Identifier: MIT
"""Convolutions as PyTorch operators: fp32 on the CPU by the library, all else by PyTorch's own."""
import functools
import math
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..problem import COMPOSITIONS, MAPPINGS, Problem
from ..training import Training

# ------------------------------------------------------------------ the formula, in PyTorch's terms


def _channels(cout, group_cin, groups, mapping):
    """Which channel of D the in-group input i of output o meets: Cout x Cin/groups."""
    o, i = torch.arange(cout).unsqueeze(1), torch.arange(group_cin).unsqueeze(0)
    if mapping == "paper":
        return o // (cout // groups) * group_cin + i
    if mapping == "pytorch":
        return (o * group_cin + i) % (group_cin * groups)
    return (i * cout + o) // (cout // groups)


def _met_by(w, d, groups, mapping):
    """For each weight, what it meets of D: Cout x Cin/groups x (KH*KW) x D_mul."""
    if groups == 1:
        return d.unsqueeze(0).expand(w.shape[0], -1, -1, -1)
    return d[_channels(*w.shape[:2], groups, mapping).to(d.device)]


def compose(w, d, kernel, groups, mapping="pytorch"):
    """The weight, Cout x Cin/groups x KH x KW, that W and D compose to; differentiable.

    w: Cout x Cin/groups x D_mul; d: Cin x (KH*KW) x D_mul, its identity included. The formula is
    doconv_fold()'s: each weight meets the channel of D that the mapping says.
    """
    if groups == 1:
        weight = torch.einsum("ims,ois->oim", d, w)
    else:
        weight = torch.einsum("oims,ois->oim", _met_by(w, d, groups, mapping), w)
    return weight.reshape(*w.shape[:2], *kernel)


def _compose_backward(grad, w, d, groups, mapping):
    """The gradients by w and d of compose()."""
    grad = grad.reshape(*w.shape[:2], -1)
    if groups == 1:
        return torch.einsum("ims,oim->ois", d, grad), torch.einsum("ois,oim->ims", w, grad)
    grad_w = torch.einsum("oims,oim->ois", _met_by(w, d, groups, mapping), grad)
    each = torch.einsum("ois,oim->oims", w, grad).flatten(0, 1)
    channels = _channels(*w.shape[:2], groups, mapping).to(d.device).flatten()
    return grad_w, torch.zeros_like(d).index_add(0, channels, each)


def _by_formula(x, w, d, bias, kernel, stride, padding, dilation, groups, mapping):
    """The same with PyTorch's convolution, for what the library doesn't take."""
    if d is not None:
        w = compose(w, d, kernel, groups, mapping)
    top, left, bottom, right = padding
    if (top, left) == (bottom, right):
        return F.conv2d(x, w.reshape(*w.shape[:2], *kernel), bias, stride, (top, left), dilation,
                        groups)  # fmt: skip
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, w.reshape(*w.shape[:2], *kernel), bias, stride, 0, dilation, groups)


# -------------------------------------------------------------------- the library's side of a call


def _is_ours(*tensors):
    return all(
        t is None or (t.dtype == torch.float32 and t.device.type == "cpu") for t in tensors
    )


def _channels_last(x):
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _format(x):
    return torch.channels_last if _channels_last(x) else torch.contiguous_format


@functools.lru_cache(maxsize=512)
def _training(n, cin, h, w, cout, kernel, stride, padding, dilation, groups, layout, has_bias,
              d_mul, composition, mapping, threads):  # fmt: skip
    """The kernels of a layer; what a call looks up by its shape."""
    problem = Problem(
        n=n, cin=cin, h=h, w=w, cout=cout, kh=kernel[0], kw=kernel[1],
        stride_h=stride[0], stride_w=stride[1],
        pad_top=padding[0], pad_left=padding[1], pad_bottom=padding[2], pad_right=padding[3],
        dilation_h=dilation[0], dilation_w=dilation[1], groups=groups,
        src_layout=layout, dst_layout=layout, has_bias=has_bias,
        d_mul=d_mul, composition=composition if d_mul else "none",
        mapping=mapping if d_mul else "paper",
    )  # fmt: skip
    return Training(problem, threads=threads)


def _training_of(x, w, d, has_bias, kernel, stride, padding, dilation, groups, composition,
                 mapping):  # fmt: skip
    layout = "nhwc" if _channels_last(x) else "nchw"
    return _training(
        *x.shape, w.shape[0], tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), groups,
        layout, has_bias, 0 if d is None else d.shape[2], composition, mapping,
        torch.get_num_threads(),
    )  # fmt: skip


def _at(tensor):
    return None if tensor is None else tensor.data_ptr()


# ----------------------------------------------------------------------------------- the operators


@torch.library.custom_op("doconv::do_conv2d", mutates_args=())
def _do_conv2d(x: Tensor, w: Tensor, d: Optional[Tensor], bias: Optional[Tensor], kernel: List[int],
               stride: List[int], padding: List[int], dilation: List[int], groups: int,
               composition: str, mapping: str) -> Tensor:  # fmt: skip
    if not _is_ours(x, w, d, bias):
        y = _by_formula(x, w, d, bias, kernel, stride, padding, dilation, groups, mapping)
        return y.contiguous(memory_format=_format(x))
    if x.shape[0] == 0:
        return x.new_empty(_dst_shape(x, w, kernel, stride, padding, dilation))
    x = x.contiguous(memory_format=_format(x))
    training = _training_of(x, w, d, bias is not None, kernel, stride, padding, dilation, groups,
                            composition, mapping)  # fmt: skip
    w, d, bias = (t if t is None else t.contiguous() for t in (w, d, bias))
    y = torch.empty(
        _dst_shape(x, w, kernel, stride, padding, dilation), memory_format=_format(x)
    )
    training.forward_at(_at(x), _at(y), weight=_at(w), d=_at(d), bias=_at(bias))
    return y


def _dst_shape(x, w, kernel, stride, padding, dilation):
    h = (x.shape[2] + padding[0] + padding[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    v = (x.shape[3] + padding[1] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return (x.shape[0], w.shape[0], h, v)


@_do_conv2d.register_fake
def _(x, w, d, bias, kernel, stride, padding, dilation, groups, composition, mapping):
    shape = _dst_shape(x, w, kernel, stride, padding, dilation)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_format(x))


@torch.library.custom_op("doconv::do_conv2d_backward", mutates_args=())
def _do_conv2d_backward(grad: Tensor, x: Tensor, w: Tensor, d: Optional[Tensor], kernel: List[int],
                        stride: List[int], padding: List[int], dilation: List[int], groups: int,
                        composition: str, mapping: str, wanted: List[bool],
                        ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x, w, d and the bias; those that are not wanted are empty."""
    if not _is_ours(grad, x, w, d) or x.shape[0] == 0:
        return _backward_by_formula(grad, x, w, d, kernel, stride, padding, dilation, groups,
                                    mapping, wanted)  # fmt: skip
    x = x.contiguous(memory_format=_format(x))
    grad = grad.contiguous(memory_format=_format(x))
    w, d = (t if t is None else t.contiguous() for t in (w, d))
    training = _training_of(x, w, d, wanted[3], kernel, stride, padding, dilation, groups,
                            composition, mapping)  # fmt: skip
    bias = w.new_zeros(w.shape[0]) if wanted[3] else None  # its values bear on no gradient
    gradients = [
        torch.empty_like(t) if want and t is not None else None
        for t, want in zip((x, w, d, bias), wanted)
    ]
    training.backward_at(
        _at(x), _at(grad), [_at(t) for t in gradients], weight=_at(w), d=_at(d), bias=_at(bias)
    )
    return tuple(x.new_empty(0) if t is None else t for t in gradients)


def _backward_by_formula(grad, x, w, d, kernel, stride, padding, dilation, groups, mapping, wanted):
    """Step by step: nothing that an operator calls is recorded for derivatives."""
    weight = w.reshape(*w.shape[:2], *kernel) if d is None else compose(w, d, kernel, groups,
                                                                        mapping)  # fmt: skip
    top, left, bottom, right = padding
    padded = F.pad(x, (left, right, top, bottom))
    grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, padded, weight, [w.shape[0]], stride, [0, 0], dilation, False, [0, 0], groups,
        [wanted[0], wanted[1] or wanted[2], wanted[3]],
    )  # fmt: skip
    if wanted[0]:
        grad_x = grad_x[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        grad_x = grad_x.clone(memory_format=_format(x))
    grad_d = None
    if d is not None and (wanted[1] or wanted[2]):
        grad_weight, grad_d = _compose_backward(grad_weight, w, d, groups, mapping)
    elif grad_weight is not None:
        grad_weight = grad_weight.reshape(w.shape)
    found = (grad_x, grad_weight, grad_d, grad_bias)
    return tuple(
        x.new_empty(0) if t is None or not want else t if t is grad_x else t.contiguous()
        for t, want in zip(found, wanted)
    )


@_do_conv2d_backward.register_fake
def _(grad, x, w, d, kernel, stride, padding, dilation, groups, composition, mapping, wanted):
    result = []
    for t, want in zip((x, w, d, w.new_empty(w.shape[0])), wanted):
        if want and t is not None:
            form = _format(x) if t is x else torch.contiguous_format
            result.append(torch.empty(t.shape, dtype=t.dtype, device=t.device, memory_format=form))
        else:
            result.append(x.new_empty(0))
    return tuple(result)


def _setup(ctx, inputs, output):
    x, w, d, bias, *rest = inputs
    ctx.save_for_backward(x, w, d)
    ctx.rest, ctx.has_bias = rest, bias is not None


def _backward(ctx, grad):
    x, w, d = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[1], needs[2] and d is not None, needs[3] and ctx.has_bias]
    gradients = torch.ops.doconv.do_conv2d_backward(grad, x, w, d, *ctx.rest, wanted)
    return (*(g if want else None for g, want in zip(gradients, wanted)), *[None] * 7)


_do_conv2d.register_autograd(_backward, setup_context=_setup)


def _setup_twice(ctx, inputs, output):
    grad, x, w, d, *rest, wanted = inputs
    ctx.save_for_backward(grad, x, w, d)
    ctx.rest, ctx.wanted = rest, wanted


def _backward_twice(ctx, *grads):
    """The gradient of the gradients, by PyTorch's own of the formula."""
    saved = ctx.saved_tensors
    kernel, stride, padding, dilation, groups, _composition, mapping = ctx.rest
    with torch.enable_grad():
        grad, x, w, d = inputs = [None if t is None else t.detach().requires_grad_() for t in saved]
        bias = w.new_zeros(w.shape[0], requires_grad=True) if ctx.wanted[3] else None
        y = _by_formula(x, w, d, bias, kernel, stride, padding, dilation, groups, mapping)
        pairs = [
            (t, g)
            for t, g, want in zip((x, w, d, bias), grads, ctx.wanted)
            if want and t is not None and g is not None
        ]
        first = torch.autograd.grad(y, [t for t, _ in pairs], grad, create_graph=True)
        asked = [t for t in inputs if t is not None]
        second = iter(
            torch.autograd.grad(first, asked, [g for _, g in pairs], allow_unused=True)
        )
    return (*(None if t is None else next(second) for t in inputs), *[None] * 8)


_do_conv2d_backward.register_autograd(_backward_twice, setup_context=_setup_twice)

# Under autocast the operator takes what is cast to float32, as convolutions' own kernels do.
if hasattr(torch.library, "register_autocast"):
    torch.library.register_autocast("doconv::do_conv2d", "cpu", torch.float32)

# -------------------------------------------------------------------------------- what users call


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def same_padding(kernel, dilation):
    """Top, left, bottom, right, so that an output without stride has its input's size."""
    total = [d * (k - 1) for k, d in zip(kernel, dilation)]
    before = [t // 2 for t in total]
    return [*before, total[0] - before[0], total[1] - before[1]]


def _paddings(padding, kernel, stride, dilation):
    """Top, left, bottom, right, of a number, a pair, or a word as torch.nn.Conv2d takes it."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        if tuple(stride) != (1, 1):
            raise ValueError("padding='same' is not supported for strided convolutions")
        return same_padding(kernel, dilation)
    if isinstance(padding, str):
        raise ValueError(f"padding: {padding!r} is none of 'valid', 'same'")
    return [*_pair(padding), *_pair(padding)]


def _call(x, w, d, bias, kernel, stride, padding, dilation, groups, composition, mapping):
    if x.dim() not in (3, 4):
        raise ValueError(f"input: 3 or 4 dimensions are needed, not {tuple(x.shape)}")
    batched = x if x.dim() == 4 else x.unsqueeze(0)
    stride, dilation = _pair(stride), _pair(dilation)
    if batched.shape[1] != w.shape[1] * groups:
        raise ValueError(
            f"input: {batched.shape[1]} channels, where the weight has {w.shape[1]} x {groups}"
        )
    padding = _paddings(padding, kernel, stride, dilation)
    y = torch.ops.doconv.do_conv2d(
        batched, w, d, bias, list(kernel), list(stride), padding, list(dilation), groups,
        composition, mapping,
    )  # fmt: skip
    return y if x.dim() == 4 else y.squeeze(0)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """torch.nn.functional.conv2d() by the library's kernels; weight: OIHW.

    Channels-last input is taken as it is and gives channels-last output. What is not fp32 on the
    CPU goes to PyTorch.
    """
    kernel = tuple(weight.shape[2:])
    return _call(x, weight, None, bias, kernel, stride, padding, dilation, groups, "none",
                 "pytorch")  # fmt: skip


def do_conv2d(x, W, D, bias=None, stride=1, padding=0, dilation=1, groups=1, composition="kernel",
              mapping="pytorch", kernel_size=None):  # fmt: skip
    """A DO-Conv layer.

    W: Cout x Cin/groups x D_mul. D: Cin x (KH*KW) x D_mul, with its identity added; None for a 1x1
    layer of D_mul 1. composition: "kernel" (fold D and W, then convolve), "feature" (depthwise by
    D, then W), or "auto", the faster one for a training step of this shape. mapping: which channel
    of D a weight meets in layers with groups: "pytorch" as the official module, "paper",
    "tensorflow"; feature composition is defined for "paper", or where they are the same.
    kernel_size: (KH, KW), needed where KH*KW is no square.
    """
    if composition not in COMPOSITIONS[1:]:
        raise ValueError(f"composition: {composition!r} is none of {', '.join(COMPOSITIONS[1:])}")
    if mapping not in MAPPINGS:
        raise ValueError(f"mapping: {mapping!r} is none of {', '.join(MAPPINGS)}")
    if kernel_size is None:
        taps = 1 if D is None else D.shape[1]
        side = math.isqrt(taps)
        if side * side != taps:
            raise ValueError(f"kernel_size: is needed, since the {taps} taps of D are no square")
        kernel_size = (side, side)
    kernel = _pair(kernel_size)
    if D is None:
        if kernel != (1, 1) or W.shape[2] != 1:
            raise ValueError("D: only a 1x1 layer of D_mul 1 has none")
        return _call(x, W.reshape(*W.shape[:2], 1, 1), None, bias, kernel, stride, padding,
                     dilation, groups, "none", "pytorch")  # fmt: skip
    if D.shape != (W.shape[1] * groups, kernel[0] * kernel[1], W.shape[2]):
        raise ValueError(
            f"D: {(W.shape[1] * groups, kernel[0] * kernel[1], W.shape[2])} is needed, "
            f"not {tuple(D.shape)}"
        )
    return _call(x, W, D, bias, kernel, stride, padding, dilation, groups, composition, mapping)


