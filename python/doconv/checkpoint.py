# SPDX-License-Identifier: MIT
"""Folding the DO-Conv layers of checkpoints, by the library's one implementation."""
import ctypes
import json
import os
import pathlib
import tempfile
from dataclasses import dataclass

import numpy as np

from . import _library
from ._contexts import context_for
from ._library import check, lib
from .errors import InvalidFile
from .problem import MAPPINGS

IDENTITIES = {None: 0, "add": 1, "none": 2}
DTYPES = {"keep": 0, "f32": 1, "f16": 2, "bf16": 3, "f64": 4}
PREFIXES = ("module.", "_orig_mod.", "ema.")


@dataclass(frozen=True)
class FoldedLayer:
    """A layer that was folded; `weight` is its weight's name in the result."""

    name: str
    weight: str
    shape: tuple
    dtype: str
    groups: int
    d_mul: int
    has_d: bool
    has_identity: bool
    assumed_square: bool


@dataclass(frozen=True)
class FoldReport:
    """What became of a checkpoint: its layers, and why other tensors of such names stayed."""

    layers: tuple
    left_alone: dict


def _texts(patterns):
    """A list of texts as C has it, and how many they are."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or ())
    return (ctypes.c_char_p * max(len(patterns), 1))(*(p.encode() for p in patterns)), len(patterns)


def _choice(names, value, what):
    if value not in names:
        raise ValueError(f"{what}: {value!r} is none of {', '.join(map(repr, names))}")
    return names[value]


def stripped(name):
    """A name without what wrappers put before it, as strip_prefix=True does it."""
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _layers_of(model, names, options):
    """The options, with kernel sizes, and what is a layer at all, as a model's modules have it.

    names: of the checkpoint's tensors. model: with DOConv2d, the official module, or Conv2d in
    their place.
    """
    modules = {
        stripped(name): module
        for name, module in model.named_modules()
        if len(getattr(module, "kernel_size", None) or ()) == 2
    }
    found = {}
    for name in names:
        if name == "W" or name.endswith(".W"):
            layer = name[:-2]
            module = modules.get(stripped(layer + ".")[:-1])
            if module is not None:
                found[layer] = module
    mappings = {module.mapping for module in found.values() if hasattr(module, "mapping")}
    if options.get("mapping") is None and len(mappings) == 1:
        options["mapping"] = mappings.pop()
    sizes = {name: tuple(module.kernel_size) for name, module in found.items()}
    options["kernels"] = {**sizes, **(options.get("kernels") or {})}
    if options.get("only") is None:
        options["only"] = list(found) or ["no module of the model has a W in the checkpoint"]
    if options.get("strip_prefix") is None:
        options["strip_prefix"] = any(stripped(name + ".") != name + "." for name in found)
    return options


def _struct(report, note, open_shard, *, identity=None, mapping=None, kernels=None, only=None,
            exclude=None, dtype="keep", rename=None, strip_prefix=None, dry_run=False):  # fmt: skip
    """The options as C has them."""
    kernels = kernels or {}
    sizes = (_library.FoldKernel * max(len(kernels), 1))(
        *(_library.FoldKernel(name.encode(), *size) for name, size in kernels.items())
    )
    only, only_count = _texts(only)
    exclude, exclude_count = _texts(exclude)
    if mapping is not None:
        number = _choice({name: i for i, name in enumerate(MAPPINGS)}, mapping, "mapping")
        mapping = ctypes.pointer(ctypes.c_int(number))
    if isinstance(strip_prefix, bool):
        strip_prefix = "" if strip_prefix else None
    return _library.FoldCheckpointOptions(
        mapping=mapping, add_identity=_choice(IDENTITIES, identity, "identity"),
        kernels=sizes, kernel_count=len(kernels), dry_run=int(dry_run), report=report,
        only=only, only_count=only_count, exclude=exclude, exclude_count=exclude_count,
        rename=None if rename is None else rename.encode(),
        strip_prefix=None if strip_prefix is None else strip_prefix.encode(),
        type=_choice(DTYPES, dtype, "dtype"), note=note, open=open_shard,
    )  # fmt: skip


def fold_data(data, folder, options):
    """Folds a safetensors file, or an index whose shards are in a folder, an array of bytes.

    Returns the folded one (None if it is a dry run) and the report.
    """
    layers, notes, shards = [], {}, []

    @_library.FOLD_REPORT
    def report(_user, layer):
        layer = layer.contents
        desc = layer.desc.contents
        layers.append(
            FoldedLayer(
                layer.name.decode(), layer.weight.decode(),
                (desc.cout, desc.cin // desc.groups, desc.kh, desc.kw), layer.type.decode(),
                desc.groups, desc.d_mul, bool(layer.has_d), bool(layer.has_identity),
                bool(layer.assumed_square),
            )
        )  # fmt: skip

    @_library.FOLD_NOTE
    def note(_user, tensor, why):
        notes[tensor.decode()] = why.decode("utf-8", "replace")

    @_library.FOLD_OPEN
    def open_shard(_user, name, address, size):
        try:
            shards.append(np.fromfile(folder / name.decode(), np.uint8))
        except (OSError, UnicodeError):
            return 10  # the library says which one
        address[0], size[0] = shards[-1].ctypes.data, shards[-1].size
        return 0

    options = _struct(report, note, open_shard, **options)
    context = context_for()
    result, size = ctypes.c_void_p(), ctypes.c_size_t()
    # An address also where there are no bytes.
    data = np.asarray(data)
    status = lib.doconv_fold_checkpoint(
        context.address, data.ctypes.data, data.size, ctypes.byref(options), ctypes.byref(result),
        ctypes.byref(size),
    )  # fmt: skip
    check(status, context.address)
    try:
        folded = ctypes.string_at(result, size.value) if result else None
    finally:
        lib.doconv_checkpoint_free(context.address, result)
    return folded, FoldReport(tuple(layers), notes)


def _is_torch(data):
    """Whether bytes are what torch.save() writes: a zip archive, or a pickle, earlier."""
    head = data[:8].tobytes()
    longer = int.from_bytes(head, "little") > data.size
    return head[:4] == b"PK\3\4" or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5" and longer)


def header_of(data):
    """The header of a safetensors file, or the index of one in shards; {} if it is neither."""
    data = memoryview(data)
    try:
        if data[:1] == b"{" and (len(data) < 8 or data[7] != 0):
            return json.loads(bytes(data)).get("weight_map", {})
        return json.loads(bytes(data[8 : 8 + int.from_bytes(data[:8], "little")]))
    except (ValueError, AttributeError):
        return {}  # the library says what is wrong with it


def write_file(path, data):
    """All or nothing: the file has its name once it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def fold_file(path, out=None, *, model=None, identity=None, mapping=None, kernels=None, only=None,
              exclude=None, dtype="keep", rename=None, strip_prefix=None):  # fmt: skip
    """Folds the DO-Conv layers of a checkpoint into plain convolutions, as `doconv fold` does.

    path: .safetensors, an index of shards (.index.json), or what torch.save() wrote (read with
    weights_only=True, its state_dict searched for). out: the file to write, by torch.save() if path
    was such a file and out does not end in .safetensors; None checks and reports only.

    model: tells which W are layers (1x1 ones have no D), how high and wide their kernels are, and
    whether prefixes are wrappers'; it has DOConv2d or, in their place, Conv2d. Otherwise:
    identity: "add" or "none", for a D whose d_diag is not in the file; mapping: for such of several
    groups, "pytorch", "paper" or "tensorflow"; kernels: {name or pattern: (KH, KW)}; only, exclude:
    names or patterns of layers, which also say that a W without D is a 1x1 layer (only); dtype of
    the folded weights: "keep", "f32", "f16", "bf16" or "f64"; rename: "{name}.weight";
    strip_prefix: True for module., _orig_mod. and ema., or a text. Returns a FoldReport.
    """
    options = {
        "identity": identity, "mapping": mapping, "kernels": kernels, "only": only,
        "exclude": exclude, "dtype": dtype, "rename": rename, "strip_prefix": strip_prefix,
    }  # fmt: skip
    path = pathlib.Path(path)
    if out is not None:
        out = pathlib.Path(out)
        if out.exists() and out.samefile(path):
            raise ValueError(f"{out}: is the input, and what is folded can't be trained again")
    data = np.fromfile(path, np.uint8)
    if _is_torch(data):
        try:
            from .torch import state_dict
        except ImportError as error:
            raise InvalidFile(f"{path}: torch.save() wrote it, and PyTorch is missing") from error
        return state_dict.fold_saved(path, out, model, options)
    names = header_of(data)
    if model is not None:
        options = _layers_of(model, names, options)
    folded, report = fold_data(data, path.parent, {**options, "dry_run": out is None})
    if out is not None:
        shards = {path.parent / name for name in names.values() if isinstance(name, str)}
        if any(out.exists() and shard.exists() and out.samefile(shard) for shard in shards):
            raise ValueError(f"{out}: is one of the shards that were read")
        write_file(out, folded)
    return report


def fold_tensors(data, model, options):
    """Folds a safetensors file in memory, whose options may come from a model."""
    if model is not None:
        options = _layers_of(model, header_of(data), dict(options))
    return fold_data(np.frombuffer(data, np.uint8), pathlib.Path("."), options)
