# SPDX-License-Identifier: MIT
"""DO-Conv and tuned convolution for PyTorch: operators, modules, conversion of networks."""
from . import functional
from .state_dict import fold_state_dict
from .conversion import check_fold, convert, fold
from .inference import Optimized, optimize
from .modules import DOConv2d

__all__ = [
    "DOConv2d", "Optimized", "check_fold", "convert", "fold",
    "fold_state_dict", "functional", "optimize",
]  # fmt: skip
