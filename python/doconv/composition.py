# SPDX-License-Identifier: MIT
"""DO-Conv's kernel composition: W and D to the weight of a convolution, and its gradient back."""
import ctypes
import math

import numpy as np

from ._arrays import FLOAT, address, as_numpy, read_parameter
from ._contexts import context_for
from ._library import check, lib
from .convolution import fold_desc


def _describe(w, d, kernel, groups, mapping, identity):
    """The struct, and the arrays as the library takes them; d is None where there is none."""
    w = as_numpy(w, "w")
    if w.ndim != 3:
        raise ValueError(f"w: Cout x Cin/groups x D_mul is needed, not {w.shape}")
    cout, group_cin, d_mul = w.shape
    cin = group_cin * groups
    if d is None:
        kernel = (1, 1) if kernel is None else kernel
    elif kernel is None:
        taps = as_numpy(d, "d").shape[1]
        side = math.isqrt(taps)
        if side * side != taps:
            raise ValueError(f"kernel: is needed, since the {taps} taps of d are no square")
        kernel = (side, side)
    kh, kw = kernel
    w = read_parameter(w, (cout, group_cin, d_mul), "w")
    if d is not None:
        d = read_parameter(d, (cin, kh * kw, d_mul), "d")
    return fold_desc(cout, cin, kh, kw, groups, d_mul, mapping, identity), w, d


def fold(w, d, *, kernel=None, groups=1, mapping="pytorch", identity=False):
    """Composes a DO-Conv layer's kernel: Cout x Cin/groups x KH x KW.

    w: Cout x Cin/groups x D_mul; d: Cin x (KH*KW) x D_mul, or None for a 1x1 layer with D_mul 1.
    kernel: (KH, KW), needed where KH*KW is no square. mapping: which channel of D a weight meets
    in layers with groups, "pytorch" as the official module has it, "paper" or "tensorflow".
    identity: compose with D + I, for a D that was saved without its identity.
    """
    desc, w, d = _describe(w, d, kernel, groups, mapping, identity)
    context = context_for()
    weight = np.empty((desc.cout, desc.cin // desc.groups, desc.kh, desc.kw), FLOAT)
    status = lib.doconv_fold(
        context.address, ctypes.byref(desc), address(w), None if d is None else address(d),
        address(weight),
    )  # fmt: skip
    check(status, context.address)
    return weight


def fold_gradient(w, d, grad_weight, *, kernel=None, groups=1, mapping="pytorch", identity=False):
    """Hands the gradient by fold()'s result back to (grad_w, grad_d); grad_d is None without d."""
    desc, w, d = _describe(w, d, kernel, groups, mapping, identity)
    shape = (desc.cout, desc.cin // desc.groups, desc.kh, desc.kw)
    grad_weight = read_parameter(grad_weight, shape, "grad_weight")
    context = context_for()
    grad_w = np.empty_like(w)
    grad_d = None if d is None else np.empty_like(d)
    status = lib.doconv_fold_gradient(
        context.address, ctypes.byref(desc), address(w), None if d is None else address(d),
        address(grad_weight), address(grad_w), None if d is None else address(grad_d),
    )  # fmt: skip
    check(status, context.address)
    return grad_w, grad_d
