# SPDX-License-Identifier: MIT
"""DOConv2d: in the place of torch.nn.Conv2d, and of the official module of the same name."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .functional import _pair, compose, do_conv2d, same_padding


def identity(cin, taps, d_mul):
    """What is added to D, Cin x taps x D_mul: the identity, as often as D_mul has room for it."""
    eye = torch.eye(taps).repeat(1, d_mul // taps)
    rest = torch.zeros(taps, d_mul - eye.shape[1])
    return torch.cat((eye, rest), dim=1).expand(cin, taps, d_mul).clone()


class DOConv2d(nn.Module):
    """A depthwise over-parameterized convolution (arXiv 2006.12030).

    Arguments, in the official module's order, are torch.nn.Conv2d's, with D_mul (None: KH*KW) in
    the fourth place; its parameters have the official names: W, Cout x Cin/groups x D_mul; D, Cin x
    (KH*KW) x D_mul; d_diag, the constant identity that is added to D; bias. A 1x1 layer has no D.
    composition: "kernel", "feature" or "auto", and mapping: as functional.do_conv2d() has them.

    padding_mode other than "zeros" pads as torch.nn.Conv2d does. (The official module swaps the
    axes of paddings that are not square there.)
    """

    def __init__(self, in_channels, out_channels, kernel_size, D_mul=None, stride=1, padding=0,
                 dilation=1, groups=1, bias=True, padding_mode="zeros", *, composition="kernel",
                 mapping="pytorch"):  # fmt: skip
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError("groups: must divide in_channels and out_channels")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"padding_mode: {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.dilation, self.padding_mode = _pair(dilation), padding_mode
        self.composition, self.mapping = composition, mapping
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.D_mul = taps if D_mul is None or taps == 1 else D_mul
        if self.D_mul < 1:
            raise ValueError(f"D_mul: {D_mul} is not positive")
        self.W = nn.Parameter(torch.empty(out_channels, in_channels // groups, self.D_mul))
        if taps > 1:
            self.D = nn.Parameter(torch.zeros(in_channels, taps, self.D_mul))
            self.d_diag = nn.Parameter(identity(in_channels, taps, self.D_mul), requires_grad=False)
        else:
            self.register_parameter("D", None)
            self.register_parameter("d_diag", None)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        """Draws W and bias anew, as torch.nn.Conv2d does; D becomes the identity."""
        nn.init.kaiming_uniform_(self.W, a=math.sqrt(5))
        if self.D is not None:
            nn.init.zeros_(self.D)
        if self.bias is not None:
            taps = self.kernel_size[0] * self.kernel_size[1]
            bound = 1 / math.sqrt(self.in_channels // self.groups * taps)
            nn.init.uniform_(self.bias, -bound, bound)

    def folded_weight(self):
        """The weight of the plain convolution that computes the same; differentiable."""
        if self.D is None:
            return self.W.reshape(*self.W.shape[:2], 1, 1)
        return compose(self.W, self.D + self.d_diag, self.kernel_size, self.groups, self.mapping)

    def _padded(self, x):
        """x, and the padding that is left for the convolution."""
        if self.padding_mode == "zeros":
            return x, self.padding
        sides = self.padding
        if sides == "valid":
            return x, 0
        if sides == "same":
            top, left, bottom, right = same_padding(self.kernel_size, self.dilation)
            sides = (left, right, top, bottom)
        else:
            sides = (sides[1], sides[1], sides[0], sides[0])
        return F.pad(x, sides, mode=self.padding_mode), 0

    def forward(self, x):
        """Convolves x: N x Cin x H x W, or Cin x H x W."""
        x, padding = self._padded(x)
        d = None if self.D is None else self.D + self.d_diag
        return do_conv2d(
            x, self.W, d, self.bias, self.stride, padding, self.dilation, self.groups,
            self.composition, self.mapping, self.kernel_size,
        )  # fmt: skip

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # Earlier versions of the official module have another name.
        old, new = prefix + "D_diag", prefix + "d_diag"
        if self.D is not None and old in state_dict and new not in state_dict:
            state_dict[new] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self):
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", D_mul={self.D_mul}, stride={self.stride}, padding={self.padding}"
        for name, default in (("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        if self.bias is None:
            text += ", bias=False"
        return text + f", composition={self.composition}"
