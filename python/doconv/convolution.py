# SPDX-License-Identifier: MIT
"""A convolution that is planned and packed once and then runs on arrays."""
import ctypes
import weakref

import numpy as np

from ._arrays import (
    FLOAT, Workspaces, address, read_array, read_parameters, written_array,
)  # fmt: skip
from ._contexts import context_for
from ._library import FoldDesc, PlanOptions, check, lib
from .problem import as_problem, number_of


def plan_options(*, variant=None, rigor=0, workspace_limit=0, packed_limit=0, cold_weights=False):
    """The struct of the C API."""
    return PlanOptions(
        rigor=rigor,
        variant=variant.encode() if variant is not None else None,
        workspace_limit=workspace_limit,
        packed_limit=packed_limit,
        cold_weights=int(cold_weights),
    )


class Conv:
    """A plan with its packed weights: `conv(x)` convolves.

    problem: a Problem or its text. weight: Cout x Cin/groups x KH x KW; of a DO-Conv layer
    (problem.d_mul > 0) W, Cout x Cin/groups x D_mul, beside d, Cin x (KH*KW) x D_mul: they are
    folded once. bias: Cout, where problem.has_bias. They are copied. tune: "off", "read" (the
    default), "tune", "force" or "only", as DOCONV_TUNE. variant: only this one. threads: None for
    get_num_threads(). cold_weights: choose for weights that no cache holds when a call starts, as
    in a network.

    Any number of threads may call one Conv. Errors are DoconvError, TypeError, ValueError.
    """

    def __init__(
        self, problem, weight, bias=None, *, d=None, tune=None, variant=None, threads=None,
        deterministic=False, workspace_limit=0, packed_limit=0, cold_weights=False,
    ):  # fmt: skip
        self.problem = as_problem(problem)
        self._context = context_for(threads, tune, deterministic)
        planned = self.problem
        if planned.d_mul:
            planned = planned.replace(d_mul=0, composition="none", mapping="paper",
                                      add_identity=False)  # fmt: skip
        options = plan_options(
            variant=variant, workspace_limit=workspace_limit, packed_limit=packed_limit,
            cold_weights=cold_weights,
        )  # fmt: skip
        plan = ctypes.c_void_p()
        desc = planned.desc()
        status = lib.doconv_plan_create(
            self._context.address, ctypes.byref(desc), ctypes.byref(options), ctypes.byref(plan)
        )
        check(status, self._context.address)
        self._plan = plan.value
        self._free_plan = weakref.finalize(self, lib.doconv_plan_destroy, self._plan)
        self._weights = self._pack(weight, d, bias)
        self._free_weights = weakref.finalize(self, lib.doconv_weights_destroy, self._weights)
        self._free_plan.atexit = self._free_weights.atexit = False
        self._src_shape, self._dst_shape = planned.src_shape, planned.dst_shape
        self._workspaces = Workspaces(lib.doconv_plan_workspace_size(self._plan))

    def _pack(self, weight, d, bias):
        p = self.problem
        arrays = read_parameters(p, weight, d, bias)
        at = {name: address(array) for name, array in arrays.items()}
        weights = ctypes.c_void_p()
        if p.d_mul:
            fold = fold_desc(p.cout, p.cin, p.kh, p.kw, p.groups, p.d_mul, p.mapping,
                             p.add_identity)  # fmt: skip
            status = lib.doconv_weights_fold(
                self._plan, ctypes.byref(fold), at["weight"], at.get("d"), at.get("bias"),
                ctypes.byref(weights),
            )  # fmt: skip
        else:
            status = lib.doconv_weights_create(
                self._plan, at["weight"], at.get("bias"), ctypes.byref(weights)
            )
        check(status, self._context.address)
        return weights.value

    @property
    def variant(self):
        """The variant that was chosen, as text."""
        return lib.doconv_plan_variant(self._plan).decode()

    @property
    def origin(self):
        """Who chose it: "forced", "table", "cache", "measured", "estimate", ..."""
        return lib.doconv_plan_origin(self._plan).decode()

    @property
    def workspace_size(self):
        """Bytes of workspace that a call takes, beside its arrays."""
        return self._workspaces.size

    @property
    def packed_size(self):
        """Bytes of the packed weights."""
        return lib.doconv_plan_packed_size(self._plan)

    def __call__(self, x, out=None, residual=None):
        """Convolves x; writes to out, which is returned, or to a new array.

        x, out and residual have the shapes problem.src_shape and problem.dst_shape (twice). x may
        be anything with DLPack that lies in the CPU's memory; residual may be out itself.
        """
        if not (
            type(x) is np.ndarray
            and x.shape == self._src_shape
            and x.dtype == FLOAT
            and x.flags.c_contiguous
        ):
            x = read_array(x, self._src_shape, "x")
        result = out
        if out is None:
            result = out = np.empty(self._dst_shape, FLOAT)
        else:
            out = written_array(out, self._dst_shape, "out")
        residual_at = None
        if residual is not None:
            residual = read_array(residual, self._dst_shape, "residual")
            residual_at = address(residual)
        self.run_at(address(x), address(out), residual_at)
        return result

    def run_at(self, x, out, residual=None):
        """The same on the addresses of contiguous tensors: for bindings with tensors of their own.
        """
        space = self._workspaces.take()
        status = lib.doconv_execute(
            self._plan, self._weights, x, residual, out, None if space is None else address(space),
            self._workspaces.size,
        )  # fmt: skip
        self._workspaces.leave(space)
        if status != 0:
            check(status, self._context.address)

    def __repr__(self):
        return f"<doconv.Conv {self.problem.text} {self.variant} ({self.origin})>"


def fold_desc(cout, cin, kh, kw, groups, d_mul, mapping, add_identity):
    """The struct of the C API."""
    return FoldDesc(
        cout=cout, cin=cin, kh=kh, kw=kw, groups=groups, d_mul=d_mul,
        mapping=number_of("mapping", mapping), add_identity=int(add_identity),
    )  # fmt: skip
