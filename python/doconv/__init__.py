# SPDX-License-Identifier: MIT
"""Convolution on CPUs, tuned by the layer, and DO-Conv (arXiv 2006.12030).

    conv = doconv.Conv("mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc", weight)
    y = conv(x)

`doconv.torch`, imported by itself, has operators and modules for PyTorch. What goes wrong in the
library is a DoconvError, and also the exception that Python has for it; its warnings go to the
logger "doconv".
"""
from ._contexts import get_num_threads, set_num_threads
from ._library import LIBRARY_VERSION
from .checkpoint import FoldedLayer, FoldReport, fold_file
from .composition import fold, fold_gradient
from .convolution import Conv
from .errors import (
    CacheError, DoconvError, InvalidArgument, InvalidFile, InvalidProblem, Mismatch, NotFound,
    OutOfMemory, SizeOverflow, Unsupported,
)  # fmt: skip
from .problem import Problem, conv_problem
from .training import Training
from .tuning import (
    Candidate, Explanation, Measured, Tuned, explain, export_cache, import_cache, info, tune,
)  # fmt: skip

__version__ = LIBRARY_VERSION

__all__ = [
    "CacheError", "Candidate", "Conv", "DoconvError", "Explanation", "FoldReport", "FoldedLayer",
    "InvalidArgument", "InvalidFile", "InvalidProblem", "Measured", "Mismatch", "NotFound",
    "OutOfMemory", "Problem", "SizeOverflow", "Training", "Tuned", "Unsupported", "conv_problem",
    "explain", "export_cache", "fold", "fold_file", "fold_gradient", "get_num_threads",
    "import_cache", "info", "set_num_threads", "tune",
]  # fmt: skip
