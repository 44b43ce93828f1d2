# SPDX-License-Identifier: MIT
"""The shared library: where it lies, its structs and functions as ctypes sees them, its errors."""
import ctypes
import ctypes.util
import logging
import os
import pathlib
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p

from .errors import DoconvError, error_of

logger = logging.getLogger("doconv")


def _struct(name, fields):
    """A struct of the C API, which begins with its own size: set when it is made."""

    def __init__(self, **values):
        ctypes.Structure.__init__(self, size=ctypes.sizeof(type(self)), **values)

    return type(
        name, (ctypes.Structure,), {"_fields_": [("size", c_size_t), *fields], "__init__": __init__}
    )


def _named(kind, names):
    return [(name, kind) for name in names.split()]


ContextOptions = _struct(
    "ContextOptions",
    [("threads", c_int), *_named(c_void_p, "parallel_for parallel_for_user allocate release")]
    + [*_named(c_void_p, "allocate_user log log_user"), *_named(c_int, "verbose max_isa tune")]
    + [("cache_directory", c_char_p), ("deterministic", c_int), ("table", c_void_p)],
)
ContextInfo = _struct(
    "ContextInfo",
    [("cpu", c_char_p), *_named(c_int, "cpu_isa isa threads")]
    + [*_named(c_int64, "l1d_bytes l2_bytes l3_bytes"), ("cache_directory", c_char_p)]
    + [("tune", c_int), ("registry", c_char_p)],
)
ConvDesc = _struct(
    "ConvDesc",
    _named(c_int64, "n cin h w cout kh kw stride_h stride_w pad_top pad_left pad_bottom pad_right")
    + _named(c_int64, "dilation_h dilation_w groups")
    + _named(c_int, "src_layout dst_layout has_bias residual relu clamp")
    + [*_named(c_float, "clamp_lo clamp_hi"), ("accuracy", c_int), ("d_mul", c_int64)]
    + _named(c_int, "composition mapping add_identity"),
)
PlanOptions = _struct(
    "PlanOptions",
    [("rigor", c_int), ("variant", c_char_p), ("workspace_limit", c_size_t)]
    + [*_named(c_int, "cold_weights fresh_weights operation"), ("packed_limit", c_size_t)],
)
CandidateInfo = _struct(
    "CandidateInfo",
    [*_named(c_char_p, "variant kernel refused"), ("estimated_seconds", c_double)]
    + [*_named(c_size_t, "workspace_size packed_size"), ("error_amplification", c_double)]
    + [("second", c_char_p)],
)
FoldDesc = _struct(
    "FoldDesc",
    _named(c_int64, "cout cin kh kw groups d_mul") + _named(c_int, "mapping add_identity"),
)
FoldedLayer = _struct(
    "FoldedLayer",
    [("name", c_char_p), ("desc", POINTER(FoldDesc)), *_named(c_int, "has_d has_identity")]
    + [*_named(c_size_t, "bytes_before bytes_after"), *_named(c_char_p, "weight type")]
    + [("assumed_square", c_int)],
)
FOLD_REPORT = ctypes.CFUNCTYPE(None, c_void_p, POINTER(FoldedLayer))
FOLD_NOTE = ctypes.CFUNCTYPE(None, c_void_p, c_char_p, c_char_p)
FOLD_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, POINTER(c_void_p), POINTER(c_size_t))


class FoldKernel(ctypes.Structure):
    """Has no size of its own: it never grows."""

    _fields_ = [("name", c_char_p), ("kh", c_int64), ("kw", c_int64)]


FoldCheckpointOptions = _struct(
    "FoldCheckpointOptions",
    [("mapping", POINTER(c_int)), ("add_identity", c_int), ("kernels", POINTER(FoldKernel))]
    + [("kernel_count", c_size_t), ("dry_run", c_int), ("report", FOLD_REPORT)]
    + [("report_user", c_void_p), ("only", POINTER(c_char_p)), ("only_count", c_size_t)]
    + [("exclude", POINTER(c_char_p)), ("exclude_count", c_size_t)]
    + [*_named(c_char_p, "rename strip_prefix"), ("type", c_int), ("note", FOLD_NOTE)]
    + [("open", FOLD_OPEN), ("open_user", c_void_p)],
)
TrainingOptions = _struct(
    "TrainingOptions", [("rigor", c_int), ("variant", c_char_p), ("purpose", c_int)]
)
Parameters = _struct("Parameters", _named(c_void_p, "weight d bias"))
Gradients = _struct("Gradients", _named(c_void_p, "src weight d bias"))
TuneOptions = _struct(
    "TuneOptions",
    [("force", c_int), ("budget_seconds", c_double), *_named(c_void_p, "progress progress_user")]
    + [("errors", c_int)],
)
TuneSummary = _struct(
    "TuneSummary",
    [("variant", c_char_p), *_named(c_double, "seconds max_rel_error")]
    + _named(c_int, "from_cache noisy stored measured")
    + _named(c_double, "rms_error confidence")
    + [*_named(c_char_p, "when against"), ("against_seconds", c_double)],
)
TuneEntry = _struct(
    "TuneEntry",
    [("variant", c_char_p), *_named(c_double, "median_seconds spread")]
    + [*_named(c_int, "rounds dropped"), ("rms_error", c_double)]
    + [*_named(c_int, "clean retaken"), ("why", c_char_p)],
)

LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
WRITE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)

# Arguments of each function that is called; pointers to objects of the library are plain addresses.
_P = c_void_p
_FUNCTIONS = {
    "doconv_version_string": (c_char_p, []),
    "doconv_version_number": (c_uint, []),
    "doconv_isa_string": (c_char_p, [c_int]),
    "doconv_context_create": (c_int, [POINTER(ContextOptions), _P]),
    "doconv_context_last_error": (c_int, [_P, c_char_p, c_size_t]),
    "doconv_context_get_info": (c_int, [_P, POINTER(ContextInfo)]),
    "doconv_conv_desc_init_sized": (c_int, [POINTER(ConvDesc), c_size_t]),
    "doconv_conv_desc_parse_sized": (c_int, [_P, c_char_p, POINTER(ConvDesc), c_size_t]),
    "doconv_conv_desc_format": (c_int, [_P, POINTER(ConvDesc), c_char_p, c_size_t]),
    "doconv_conv_dst_shape": (c_int, [_P, POINTER(ConvDesc), POINTER(c_int64)]),
    "doconv_reorder": (c_int, [c_int, c_int, c_int64, c_int64, c_int64, c_int64, _P, _P]),
    "doconv_plan_create": (c_int, [_P, POINTER(ConvDesc), POINTER(PlanOptions), _P]),
    "doconv_plan_destroy": (None, [_P]),
    "doconv_plan_variant": (c_char_p, [_P]),
    "doconv_plan_origin": (c_char_p, [_P]),
    "doconv_plan_workspace_size": (c_size_t, [_P]),
    "doconv_plan_packed_size": (c_size_t, [_P]),
    "doconv_weights_create": (c_int, [_P, _P, _P, _P]),
    "doconv_weights_fold": (c_int, [_P, POINTER(FoldDesc), _P, _P, _P, _P]),
    "doconv_weights_destroy": (None, [_P]),
    "doconv_execute": (c_int, [_P, _P, _P, _P, _P, _P, c_size_t]),
    "doconv_candidates_create": (c_int, [_P, POINTER(ConvDesc), POINTER(PlanOptions), _P]),
    "doconv_candidates_destroy": (None, [_P]),
    "doconv_candidates_count": (c_int, [_P]),
    "doconv_candidates_get": (c_int, [_P, c_int, POINTER(CandidateInfo)]),
    "doconv_fold": (c_int, [_P, POINTER(FoldDesc), _P, _P, _P]),
    "doconv_fold_gradient": (c_int, [_P, POINTER(FoldDesc), _P, _P, _P, _P, _P]),
    "doconv_fold_checkpoint": (
        c_int,
        [_P, _P, c_size_t, POINTER(FoldCheckpointOptions), _P, POINTER(c_size_t)],
    ),
    "doconv_checkpoint_free": (None, [_P, _P]),
    "doconv_training_create": (c_int, [_P, POINTER(ConvDesc), POINTER(TrainingOptions), _P]),
    "doconv_training_destroy": (None, [_P]),
    "doconv_training_composition": (c_int, [_P]),
    "doconv_training_workspace_size": (c_size_t, [_P]),
    "doconv_training_saved_size": (c_size_t, [_P]),
    "doconv_training_forward": (c_int, [_P, POINTER(Parameters), _P, _P, _P, _P, c_size_t]),
    "doconv_training_backward": (
        c_int,
        [_P, POINTER(Parameters), _P, _P, _P, POINTER(Gradients), _P, c_size_t],
    ),
    "doconv_tune": (
        c_int,
        [_P, POINTER(ConvDesc), POINTER(PlanOptions), POINTER(TuneOptions), _P],
    ),
    "doconv_tune_report_destroy": (None, [_P]),
    "doconv_tune_report_summary": (c_int, [_P, POINTER(TuneSummary)]),
    "doconv_tune_report_count": (c_int, [_P]),
    "doconv_tune_report_get": (c_int, [_P, c_int, POINTER(TuneEntry)]),
    "doconv_entries_create": (c_int, [_P, _P]),
    "doconv_entries_destroy": (None, [_P]),
    "doconv_entries_read": (c_int, [_P]),
    "doconv_entries_parse": (c_int, [_P, c_char_p, c_size_t]),
    "doconv_entries_count": (c_int, [_P]),
    "doconv_entries_write": (c_int, [_P, WRITE, _P]),
    "doconv_entries_store": (c_int, [_P, POINTER(c_int)]),
}


def _places():
    """Where the library may be, the most particular place first."""
    if os.environ.get("DOCONV_LIBRARY"):
        yield os.environ["DOCONV_LIBRARY"]
        return
    package = pathlib.Path(__file__).resolve().parent
    for folder in (package.parent / ".doconv.mesonpy.libs", package):
        yield from map(str, sorted(folder.glob("libdoconv*")))
    yield "libdoconv.so.0"
    found = ctypes.util.find_library("doconv")
    if found:
        yield found


def _load():
    reasons = []
    for place in _places():
        try:
            library = ctypes.CDLL(place)
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
            return library
        except (OSError, AttributeError) as error:
            reasons.append(f"{place}: {error}")
    raise ImportError("doconv: the shared library can't be loaded: " + "; ".join(reasons))


lib = _load()
LIBRARY_VERSION = lib.doconv_version_string().decode()


def detail_of(context):
    """What the library says of the calling thread's last failed call."""
    text = ctypes.create_string_buffer(1024)
    lib.doconv_context_last_error(context, text, len(text))
    return text.value.decode("utf-8", "replace")


def check(status, context=None):
    """Raises what a status other than OK means, with the library's own message."""
    if status != 0:
        raise error_of(status, detail_of(context) if context else "")


@LOG
def _log(_user, level, line):
    # An exception would be lost in C, and a message that can't be written must stop nothing.
    try:
        levels = {0: logging.ERROR, 1: logging.WARNING}
        logger.log(levels.get(level, logging.DEBUG), "%s", line.decode("utf-8", "replace"))
    except Exception:  # pylint: disable=broad-except
        pass


class Context:
    """A context of the library, kept for the life of the process: plans of any age may need it."""

    __slots__ = ("address", "threads")

    def __init__(self, threads, tune, deterministic, cache_directory):
        options = ContextOptions(
            threads=threads,
            log=ctypes.cast(_log, c_void_p),
            tune=tune,
            deterministic=int(deterministic),
            cache_directory=cache_directory,
        )
        address = c_void_p()
        check(lib.doconv_context_create(ctypes.byref(options), ctypes.byref(address)))
        self.address = address.value
        self.threads = self.info().threads

    def info(self):
        """The struct of doconv_context_get_info()."""
        info = ContextInfo()
        check(lib.doconv_context_get_info(self.address, ctypes.byref(info)), self.address)
        return info


__all__ = ["lib", "check", "Context", "DoconvError", "logger"]
