# SPDX-License-Identifier: MIT
"""Networks of Conv2d into networks of DOConv2d that compute the same, and back."""
import copy
import fnmatch

import torch
from torch import nn

from .modules import DOConv2d


def _matches(name, patterns, otherwise):
    if patterns is None:
        return otherwise
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _replace(model, kind, make):
    """model with make(name, module) in the place of each module of a kind; shared ones once."""
    made = {}
    if type(model) is kind:
        return make("", model)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        for child_name, child in list(module._modules.items()):
            if type(child) is kind:
                if child not in made:
                    made[child] = make(f"{name}.{child_name}" if name else child_name, child)
                module._modules[child_name] = made[child]
    return model


def convert(model, d_mul=None, include=None, exclude=None, *, composition="kernel",
            mapping="pytorch", inplace=False):  # fmt: skip
    """Makes each Conv2d a DOConv2d that computes the same: pretrained weights are kept.

    d_mul: None for KH*KW, or at least as much. include, exclude: names of modules, patterns of
    fnmatch ("layer4.*"), one or several. 1x1 layers stay as they are. Returns a copy, or model
    itself with inplace=True.
    """

    def make(name, conv):
        taps = conv.kernel_size[0] * conv.kernel_size[1]
        if taps == 1 or not _matches(name, include, True) or _matches(name, exclude, False):
            return conv
        if d_mul is not None and d_mul < taps:
            raise ValueError(f"{name}: d_mul {d_mul} has no room for an identity of {taps} taps")
        layer = DOConv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, d_mul, conv.stride, conv.padding,
            conv.dilation, conv.groups, conv.bias is not None, conv.padding_mode,
            composition=composition, mapping=mapping,
        )  # fmt: skip
        layer.to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)
        # D is the identity, repeated: each repetition has its share of the weight.
        repeats = layer.D_mul // taps
        with torch.no_grad():
            layer.W.zero_()
            share = conv.weight.reshape(*conv.weight.shape[:2], taps) / repeats
            layer.W[..., : taps * repeats] = share.repeat(1, 1, repeats)
            if conv.bias is not None:
                layer.bias.copy_(conv.bias)
        layer.W.requires_grad_(conv.weight.requires_grad)
        return layer

    return _replace(model if inplace else copy.deepcopy(model), nn.Conv2d, make)


def fold(model, *, inplace=False):
    """Makes each DOConv2d the plain Conv2d that computes the same. A copy, or model itself."""

    def make(_name, layer):
        conv = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, layer.groups, layer.bias is not None, layer.padding_mode,
        )  # fmt: skip
        conv.to(device=layer.W.device, dtype=layer.W.dtype).train(layer.training)
        with torch.no_grad():
            conv.weight.copy_(layer.folded_weight())
            if layer.bias is not None:
                conv.bias.copy_(layer.bias)
        return conv

    return _replace(model if inplace else copy.deepcopy(model), DOConv2d, make)


def check_fold(model, *inputs):
    """The largest difference between model and fold(model) on inputs, relative to the largest
    output; both in evaluation mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            expected, got = model(*inputs), fold(model)(*inputs)
    finally:
        model.train(training)
    scale = expected.abs().max().item()
    return (expected - got).abs().max().item() / (scale or 1.0)
