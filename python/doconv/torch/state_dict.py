# SPDX-License-Identifier: MIT
"""state_dicts: to safetensors in memory, folded by the library, and back."""
import json
from collections import OrderedDict
from collections.abc import Mapping

import torch

from ..checkpoint import fold_tensors, write_file
from ..errors import InvalidFile

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Where training scripts and Lightning keep the state_dict among other things.
_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params")


def _is_plain(value):
    return (
        isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype in _NAMES
    )


def _pack(tensors):
    """A safetensors file of them."""
    header, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(data)],
        }
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _unpack(data):
    """The tensors of a safetensors file, which share its memory."""
    length = int.from_bytes(data[:8], "little")
    start = 8 + length
    data = bytearray(data)
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype = DTYPES[entry["dtype"]]
            tensor = torch.empty(entry["shape"], dtype=dtype)
            if end > begin:
                tensor = torch.frombuffer(
                    data, dtype=dtype, offset=start + begin, count=tensor.numel()
                ).reshape(entry["shape"])
            tensors[name] = tensor
    return tensors


def _fold(state_dict, model, options):
    """The folded state_dict, what of it is a safetensors file, and the report."""
    plain = {name: value for name, value in state_dict.items() if _is_plain(value)}
    data, report = fold_tensors(_pack(plain), model, options)
    result = OrderedDict(_unpack(data))
    result.update((name, value) for name, value in state_dict.items() if not _is_plain(value))
    return result, data, report


def fold_state_dict(state_dict, model=None, **options):
    """A state_dict in which each DO-Conv layer is a plain convolution; its tensors are on the CPU.

    model and options are doconv.fold_file()'s. With a model, of DOConv2d or with Conv2d in their
    place, all is known: kernels' sizes, which W without D are 1x1 layers, wrappers' prefixes.
    """
    return _fold(state_dict, model, options)[0]


def _search(saved, path):
    """The state_dict in what was saved."""
    if isinstance(saved, Mapping):
        for key in _KEYS:
            inner = saved.get(key)
            if isinstance(inner, Mapping) and any(map(_is_plain, inner.values())):
                return inner
        if any(map(_is_plain, saved.values())):
            return saved
    raise InvalidFile(
        f"{path}: it has no state_dict, at its top or called one of {', '.join(_KEYS)}"
    )


def fold_saved(path, out, model, options):
    """doconv.fold_file() of what torch.save() wrote."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidFile(f"{path}: torch.load(weights_only=True): {error}") from error
    folded, data, report = _fold(_search(saved, path), model, options)
    if out is not None:
        safe = out.suffix == ".safetensors"
        write_file(out, data if safe else lambda file: torch.save(folded, file))
    return report
