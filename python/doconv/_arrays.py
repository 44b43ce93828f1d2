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


def read_array(array, shape, name):
    """An input of this shape; copied only where it isn't contiguous."""
    array = as_numpy(array, name)
    if array.dtype != FLOAT:
        raise TypeError(f"{name}: float32 is needed, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: shape {shape} is needed, not {array.shape}")
    return np.ascontiguousarray(array)


def read_parameter(array, shape, name):
    """A weight or the like of this shape, converted to float32 where it is something else."""
    array = as_numpy(array, name)
    if array.shape != shape:
        raise ValueError(f"{name}: shape {shape} is needed, not {array.shape}")
    return np.ascontiguousarray(array, dtype=FLOAT)


def written_array(array, shape, name):
    """An output of this shape to write to: never a copy."""
    array = as_numpy(array, name)
    if array.dtype != FLOAT:
        raise TypeError(f"{name}: float32 is needed, not {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: shape {shape} is needed, not {array.shape}")
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(f"{name}: a contiguous array is needed")
    if not array.flags.writeable:
        raise ValueError(f"{name}: is read-only")
    return array
