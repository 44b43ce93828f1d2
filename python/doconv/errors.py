# SPDX-License-Identifier: MIT
"""Each status of the library as an exception. All are DoconvError, and what Python calls it."""


class DoconvError(Exception):
    """A call of the library failed; `status` is its doconv_status."""

    status = None


class InvalidArgument(DoconvError, ValueError):
    """A pointer, size or option that no problem could make right."""


class InvalidProblem(DoconvError, ValueError):
    """What is described is no convolution."""


class Unsupported(DoconvError, NotImplementedError):
    """Valid, but this build, CPU or set of options has no variant for it."""


class SizeOverflow(DoconvError, OverflowError):
    """A size that doesn't fit."""


class OutOfMemory(DoconvError, MemoryError):
    """There is no memory."""


class NotFound(DoconvError, LookupError):
    """A variant that no candidate has, no entry in mode "only", no DO-Conv layer in a file."""


class Mismatch(DoconvError, ValueError):
    """Weights of another plan, or a struct of another version."""


class CacheError(DoconvError, OSError):
    """A cache directory or file that can't be used."""


class InvalidFile(DoconvError, ValueError):
    """Bytes that are not what their format says."""


_KINDS = {
    1: (InvalidArgument, "invalid argument"),
    2: (InvalidProblem, "invalid problem"),
    3: (Unsupported, "unsupported"),
    4: (SizeOverflow, "overflow"),
    5: (OutOfMemory, "out of memory"),
    6: (NotFound, "not found"),
    7: (Mismatch, "mismatch"),
    8: (InvalidArgument, "workspace too small"),
    9: (CacheError, "I/O error"),
    10: (InvalidFile, "invalid file"),
}


def error_of(status, detail):
    """The exception of a status; detail: the library's message, or ""."""
    kind, phrase = _KINDS.get(status, (DoconvError, f"unknown status {status}"))
    error = kind(detail or phrase)
    error.status = status
    return error
