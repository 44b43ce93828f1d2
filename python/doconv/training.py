# SPDX-License-Identifier: MIT
"""A layer in training: the forward pass and the gradients, plain or DO-Conv."""
import ctypes
import weakref

import numpy as np

from ._arrays import (
    FLOAT, Workspaces, address, read_array, read_parameters, written_array,
)  # fmt: skip
from ._contexts import context_for
from ._library import Gradients, Parameters, TrainingOptions, check, lib
from .problem import COMPOSITIONS, as_problem

_RIGORS = {"default": 0, "estimate": 1, "read": 2, "measure": 3}
_PURPOSES = {"step": 0, "forward": 1}


class Training:
    """The kernels of every pass of a layer, chosen once; it keeps no parameters.

    problem: a Problem or its text; with d_mul > 0 a DO-Conv layer, computed as its `composition`
    says; "auto" is the faster one for a whole "step" or, by purpose, a "forward" pass: as measured,
    if it was, else by estimate. rigor: "default" (as tune says), "estimate", "read" or "measure".
    The same bits come out whatever the number of threads, but that another composition may have
    been measured as the faster one. Any number of threads may use one object.
    """

    def __init__(self, problem, *, rigor="default", purpose="step", tune=None, threads=None):
        self.problem = as_problem(problem)
        self._context = context_for(threads, tune)
        if rigor not in _RIGORS:
            raise ValueError(f"rigor: {rigor!r} is none of {', '.join(_RIGORS)}")
        if purpose not in _PURPOSES:
            raise ValueError(f"purpose: {purpose!r} is none of {', '.join(_PURPOSES)}")
        desc = self.problem.desc()
        options = TrainingOptions(rigor=_RIGORS[rigor], purpose=_PURPOSES[purpose])
        training = ctypes.c_void_p()
        status = lib.doconv_training_create(
            self._context.address, ctypes.byref(desc), ctypes.byref(options), ctypes.byref(training)
        )
        check(status, self._context.address)
        self._training = training.value
        self._free = weakref.finalize(self, lib.doconv_training_destroy, self._training)
        self._free.atexit = False
        self._workspaces = Workspaces(lib.doconv_training_workspace_size(self._training))
        self.saved_size = lib.doconv_training_saved_size(self._training)
        self._src_shape, self._dst_shape = self.problem.src_shape, self.problem.dst_shape

    @property
    def workspace_size(self):
        """Bytes of workspace that a pass takes, beside its arrays."""
        return self._workspaces.size

    @property
    def composition(self):
        """"kernel" or "feature", also where the problem left it open; "none" for a plain layer."""
        return COMPOSITIONS[lib.doconv_training_composition(self._training)]

    # What takes addresses: for bindings that have tensors of their own. 0 or None: there is none.

    def forward_at(self, src, dst, weight, d=None, bias=None, saved=None):
        """forward() on addresses of contiguous fp32 tensors; saved: saved_size bytes."""
        parameters = Parameters(weight=weight, d=d, bias=bias)
        space = self._workspaces.take()
        status = lib.doconv_training_forward(
            self._training, ctypes.byref(parameters), src, dst, saved,
            None if space is None else address(space), self._workspaces.size,
        )  # fmt: skip
        self._workspaces.leave(space)
        check(status, self._context.address)

    def backward_at(self, src, grad_dst, gradients, weight, d=None, bias=None, saved=None):
        """backward() on addresses; gradients: those of src, weight, d, bias, None: not wanted."""
        parameters = Parameters(weight=weight, d=d, bias=bias)
        wanted = Gradients(**dict(zip(("src", "weight", "d", "bias"), gradients)))
        space = self._workspaces.take()
        status = lib.doconv_training_backward(
            self._training, ctypes.byref(parameters), src, grad_dst, saved, ctypes.byref(wanted),
            None if space is None else address(space), self._workspaces.size,
        )  # fmt: skip
        self._workspaces.leave(space)
        check(status, self._context.address)

    # What takes arrays.

    def forward(self, x, weight, d=None, bias=None, out=None):
        """The output, and what backward() may take as `saved` to spare work (None: nothing).

        x: problem.src_shape. weight: problem.weight_shape (a DO-Conv layer's W); d: Cin x (KH*KW)
        x D_mul, of a DO-Conv layer that has one; bias: Cout.
        """
        x = read_array(x, self._src_shape, "x")
        parameters = read_parameters(self.problem, weight, d, bias)
        result = out
        if out is None:
            result = out = np.empty(self._dst_shape, FLOAT)
        else:
            out = written_array(out, self._dst_shape, "out")
        saved = np.empty(self.saved_size, np.uint8) if self.saved_size else None
        at = {name: address(array) for name, array in parameters.items()}
        self.forward_at(
            address(x), address(out), saved=None if saved is None else address(saved), **at
        )
        return result, saved

    def backward(self, x, grad, weight, d=None, bias=None, saved=None, wanted=None):
        """Gradients of a loss, as a dict of arrays: "src", "weight", "d", "bias".

        grad: the gradient by the output. wanted: those to compute; None: all that the layer has.
        """
        x = read_array(x, self._src_shape, "x")
        grad = read_array(grad, self._dst_shape, "grad")
        parameters = read_parameters(self.problem, weight, d, bias)
        has = ["src", *parameters]
        wanted = has if wanted is None else list(wanted)
        for name in wanted:
            if name not in has:
                raise ValueError(f"wanted: {name!r} is none of {', '.join(has)}")
        arrays = {"src": x, **parameters}
        gradients = {name: np.empty_like(arrays[name]) for name in wanted}
        at = {name: address(array) for name, array in parameters.items()}
        places = [
            address(gradients[name]) if name in gradients else None
            for name in ("src", "weight", "d", "bias")
        ]
        self.backward_at(
            address(x), address(grad), places, saved=None if saved is None else address(saved), **at
        )
        return gradients
