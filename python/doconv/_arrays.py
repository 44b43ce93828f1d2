# SPDX-License-Identifier: MIT
"""Arrays as the library takes them: fp32, contiguous, by address."""
import numpy as np

FLOAT = np.dtype(np.float32)


def address(array):
    """Where an array's first element is."""
    return array.__array_interface__["data"][0]


def as_numpy(array, name):
    """What is an array already, or shares its memory through DLPack, as a NumPy array."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__dlpack__"):
        return np.from_dlpack(array)
    raise TypeError(f"{name}: an array is needed, not {type(array).__name__}")


def _shaped(array, shape, name):
    array = as_numpy(array, name)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {shape} is needed, not {array.shape}")
    return array


def _tensor(array, shape, name):
    array = as_numpy(array, name)
    if array.dtype != FLOAT:
        raise TypeError(f"{name}: float32 is needed, not {array.dtype}")
    return _shaped(array, shape, name)


def read_array(array, shape, name):
    """An input of this shape; copied only where it isn't contiguous."""
    return np.ascontiguousarray(_tensor(array, shape, name))


def read_parameter(array, shape, name):
    """A weight or the like of this shape, converted to float32 where it is something else."""
    return np.ascontiguousarray(_shaped(array, shape, name), dtype=FLOAT)


def read_parameters(problem, weight, d, bias):
    """The parameters that a layer has, by name: "weight", "d", "bias"."""
    p = problem
    arrays = {"weight": read_parameter(weight, p.weight_shape, "weight")}
    if d is not None:
        if not p.d_mul:
            raise ValueError("d: the problem is no DO-Conv layer (d_mul is 0)")
        arrays["d"] = read_parameter(d, (p.cin, p.kh * p.kw, p.d_mul), "d")
    if p.has_bias != (bias is not None):
        raise ValueError(f"bias: the problem has {'one' if p.has_bias else 'none'}")
    if bias is not None:
        arrays["bias"] = read_parameter(bias, (p.cout,), "bias")
    return arrays


def written_array(array, shape, name):
    """An output of this shape to write to: never a copy."""
    array = _tensor(array, shape, name)
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(f"{name}: a contiguous array is needed")
    if not array.flags.writeable:
        raise ValueError(f"{name}: is read-only")
    return array


class Workspaces:
    """Workspaces of one size, as many as there are calls at a time."""

    def __init__(self, size):
        self.size = size
        self._unused = []

    def take(self):
        """One that no other call uses; None where none is needed."""
        if self.size == 0:
            return None
        try:
            return self._unused.pop()  # one step for the interpreter: no lock is needed
        except IndexError:
            return np.empty(self.size, np.uint8)

    def leave(self, space):
        """Hands one back."""
        if space is not None:
            self._unused.append(space)
