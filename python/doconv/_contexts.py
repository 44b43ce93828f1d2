# SPDX-License-Identifier: MIT
"""Contexts of the library by what they are asked for, made once each, and the threads they have."""
import os
import threading

from ._library import Context

TUNE_MODES = {None: 0, "off": 1, "read": 2, "tune": 3, "force": 4, "only": 5}

_lock = threading.Lock()
_contexts = {}
_threads = 0  # 0: the library's own default


def _after_fork():
    # Another thread of the parent may have held it; contexts themselves survive a fork.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def set_num_threads(count):
    """Sets on how many threads what is made from now on runs; None: the library's default.

    The default is OMP_NUM_THREADS, else the CPUs that the process may run on. Objects that exist
    keep theirs.
    """
    global _threads
    if count is not None and not (isinstance(count, int) and 1 <= count <= 4096):
        raise ValueError(f"threads: {count!r} is not in 1..4096")
    _threads = count or 0


def get_num_threads():
    """How many threads what is made now runs on."""
    return context_for().threads


def context_for(threads=None, tune=None, deterministic=False):
    """The context for these: shared by all that ask for the same."""
    if tune not in TUNE_MODES:
        known = ", ".join(repr(name) for name in TUNE_MODES)
        raise ValueError(f"tune: {tune!r} is none of {known}")
    key = (threads or _threads, tune, bool(deterministic))
    context = _contexts.get(key)
    if context is None:
        with _lock:
            context = _contexts.get(key)
            if context is None:
                context = Context(key[0], TUNE_MODES[tune], key[2], None)
                _contexts[key] = context
    return context
