# SPDX-License-Identifier: MIT
"""What the library may choose from, measuring it, and the cache of winners."""
import ctypes
import dataclasses

from ._contexts import TUNE_MODES, context_for
from ._library import (
    LIBRARY_VERSION, WRITE, CandidateInfo, TuneEntry, TuneOptions, TuneSummary, check, lib,
)  # fmt: skip
from .convolution import plan_options
from .problem import as_problem


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to compute a problem; `refused`: why it isn't one, or None. Seconds are estimated."""

    variant: str
    kernel: str
    refused: str
    estimated_seconds: float
    workspace_size: int
    packed_size: int
    error_amplification: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The candidates of a problem, best estimate first, and the plan's choice among them."""

    problem: str
    variant: str
    origin: str
    candidates: tuple

    def __str__(self):
        lines = [f"{self.problem}: {self.variant} ({self.origin})"]
        for c in self.candidates:
            what = c.refused or f"{1e6 * c.estimated_seconds:.1f} us, {c.packed_size} bytes packed"
            lines.append(f"{'*' if c.variant == self.variant else ' '} {c.variant:<60} {what}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A variant that was measured. spread: median absolute deviation / median; why: "slower" or
    "wrong" where it was dropped, else ""."""

    variant: str
    seconds: float
    spread: float
    rounds: int
    why: str


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The winner, and what it was measured against (nothing, if the cache had it).

    confidence: from 0 to 1, that no other one is faster by more than 2 %; a doubtful result is
    used, and measured again by a later run. when: UTC. against: what would be taken without
    measuring.
    """

    variant: str
    seconds: float
    max_rel_error: float
    from_cache: bool
    stored: bool
    doubtful: bool
    confidence: float
    when: str
    against: str
    against_seconds: float
    measured: tuple


def explain(problem, *, variant=None, tune=None, threads=None):
    """The candidates of a convolution, why others are none, and what a plan would take."""
    problem = as_problem(problem)
    context = context_for(threads, tune)
    desc, options = problem.desc(), plan_options(variant=variant)
    handle = ctypes.c_void_p()
    status = lib.doconv_candidates_create(
        context.address, ctypes.byref(desc), ctypes.byref(options), ctypes.byref(handle)
    )
    check(status, context.address)
    try:
        candidates = []
        for index in range(lib.doconv_candidates_count(handle)):
            info = CandidateInfo()
            check(lib.doconv_candidates_get(handle, index, ctypes.byref(info)), context.address)
            candidates.append(
                Candidate(
                    info.variant.decode(), info.kernel.decode(),
                    info.refused.decode() if info.refused is not None else None,
                    info.estimated_seconds, info.workspace_size, info.packed_size,
                    info.error_amplification,
                )
            )  # fmt: skip
    finally:
        lib.doconv_candidates_destroy(handle)
    plan = ctypes.c_void_p()
    status = lib.doconv_plan_create(
        context.address, ctypes.byref(desc), ctypes.byref(options), ctypes.byref(plan)
    )
    check(status, context.address)
    chosen = lib.doconv_plan_variant(plan).decode()
    origin = lib.doconv_plan_origin(plan).decode()
    lib.doconv_plan_destroy(plan)
    return Explanation(problem.text, chosen, origin, tuple(candidates))


def tune(problem, *, force=False, budget_seconds=0.0, variant=None, cold_weights=False,
         threads=None):  # fmt: skip
    """Measures the variants of a convolution and keeps the winner in the cache.

    With a winner in the cache and without force nothing is measured. budget_seconds: 0 for the
    library's default. The interpreter's lock is released meanwhile.
    """
    problem = as_problem(problem)
    context = context_for(threads)
    desc = problem.desc()
    plan = plan_options(variant=variant, cold_weights=cold_weights)
    options = TuneOptions(force=int(force), budget_seconds=budget_seconds)
    report = ctypes.c_void_p()
    status = lib.doconv_tune(
        context.address, ctypes.byref(desc), ctypes.byref(plan), ctypes.byref(options),
        ctypes.byref(report),
    )  # fmt: skip
    check(status, context.address)
    try:
        summary = TuneSummary()
        check(lib.doconv_tune_report_summary(report, ctypes.byref(summary)), context.address)
        measured = []
        for index in range(lib.doconv_tune_report_count(report)):
            entry = TuneEntry()
            check(lib.doconv_tune_report_get(report, index, ctypes.byref(entry)), context.address)
            measured.append(
                Measured(entry.variant.decode(), entry.median_seconds, entry.spread, entry.rounds,
                         entry.why.decode())
            )  # fmt: skip
        return Tuned(
            summary.variant.decode(), summary.seconds, summary.max_rel_error,
            bool(summary.from_cache), bool(summary.stored), bool(summary.noisy),
            summary.confidence, summary.when.decode(), summary.against.decode(),
            summary.against_seconds, tuple(measured),
        )  # fmt: skip
    finally:
        lib.doconv_tune_report_destroy(report)


class _Entries:
    """A set of the cache's entries, for the length of a with statement."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        handle = ctypes.c_void_p()
        status = lib.doconv_entries_create(self.context.address, ctypes.byref(handle))
        check(status, self.context.address)
        self.handle = handle
        return self

    def __exit__(self, *_):
        lib.doconv_entries_destroy(self.handle)


def export_cache():
    """The cache's winners as one text, for import_cache() here or on another machine."""
    context = context_for()
    parts = []

    @WRITE
    def write(_user, text, length):
        parts.append(ctypes.string_at(text, length))
        return 0

    with _Entries(context) as entries:
        check(lib.doconv_entries_read(entries.handle), context.address)
        check(lib.doconv_entries_write(entries.handle, write, None), context.address)
    return b"".join(parts).decode()


def import_cache(text):
    """Takes the winners of an export into the cache; returns how many were new."""
    context = context_for()
    data = text.encode()
    stored = ctypes.c_int()
    with _Entries(context) as entries:
        check(lib.doconv_entries_parse(entries.handle, data, len(data)), context.address)
        check(lib.doconv_entries_store(entries.handle, ctypes.byref(stored)), context.address)
    return stored.value


def info():
    """What the library found and decided: a dict."""
    found = context_for().info()
    modes = {value: name for name, value in TUNE_MODES.items()}
    return {
        "version": LIBRARY_VERSION,
        "cpu": found.cpu.decode("utf-8", "replace"),
        "cpu_isa": lib.doconv_isa_string(found.cpu_isa).decode(),
        "isa": lib.doconv_isa_string(found.isa).decode(),
        "threads": found.threads,
        "l1d_bytes": found.l1d_bytes,
        "l2_bytes": found.l2_bytes,
        "l3_bytes": found.l3_bytes,
        "cache_directory": found.cache_directory.decode("utf-8", "replace"),
        "tune": modes[found.tune],
        "kernels": found.registry.decode(),
    }
