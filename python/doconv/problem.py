# SPDX-License-Identifier: MIT
"""A convolution as the library describes it: shape, layouts, what follows it."""
import ctypes
import dataclasses

from ._contexts import context_for
from ._library import ConvDesc, check, lib

LAYOUTS = ("nchw", "nhwc", "nChw8c", "nChw16c")
BLOCKS = {"nChw8c": 8, "nChw16c": 16}
ACCURACIES = ("default", "strict", "fast")
COMPOSITIONS = ("none", "kernel", "feature", "auto")
MAPPINGS = ("paper", "pytorch", "tensorflow")

_NAMES = {
    "src_layout": LAYOUTS,
    "dst_layout": LAYOUTS,
    "accuracy": ACCURACIES,
    "composition": COMPOSITIONS,
    "mapping": MAPPINGS,
}


def number_of(field, name):
    """The library's value of a name, as "nhwc" of a layout."""
    try:
        return _NAMES[field].index(name)
    except ValueError:
        raise ValueError(f"{field}: {name!r} is none of {', '.join(_NAMES[field])}") from None


def memory_shape(layout, n, c, h, w):
    """The shape of an array that holds a tensor of logical shape n, c, h, w in a layout."""
    if layout == "nchw":
        return (n, c, h, w)
    if layout == "nhwc":
        return (n, h, w, c)
    block = BLOCKS[layout]
    return (n, -(-c // block), h, w, block)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A convolution of `n` images of `cin` channels and `h` x `w` pixels.

    The fields are those of the C API's doconv_conv_desc. Tensors are fp32; arrays have the shape
    of their memory: (N, C, H, W) for "nchw", (N, H, W, C) for "nhwc", (N, ceil(C/B), H, W, B) for
    "nChw8c" and "nChw16c". With `d_mul` > 0 it is a DO-Conv layer of W and D.
    """

    n: int
    cin: int
    h: int
    w: int
    cout: int
    kh: int = 1
    kw: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    groups: int = 1
    src_layout: str = "nchw"
    dst_layout: str = "nchw"
    has_bias: bool = False
    residual: bool = False
    relu: bool = False
    clamp: tuple = None  # (lowest, highest), or None
    accuracy: str = "default"
    d_mul: int = 0
    composition: str = "none"
    mapping: str = "paper"
    add_identity: bool = False

    def desc(self):
        """The struct of the C API."""
        values = dataclasses.asdict(self)
        clamp = values.pop("clamp")
        for field in _NAMES:
            values[field] = number_of(field, values[field])
        for field in ("has_bias", "residual", "relu", "add_identity"):
            values[field] = int(values[field])
        if clamp is not None:
            values.update(clamp=1, clamp_lo=clamp[0], clamp_hi=clamp[1])
        try:
            return ConvDesc(**values)
        except TypeError as error:
            raise TypeError(f"a Problem has whole numbers: {error}") from None

    @classmethod
    def of(cls, desc):
        """The Problem of a struct of the C API."""
        values = {}
        for field in dataclasses.fields(cls):
            value = getattr(desc, field.name)
            if field.name in _NAMES:
                value = _NAMES[field.name][value]
            elif field.name == "clamp":
                value = (desc.clamp_lo, desc.clamp_hi) if value else None
            elif field.type in ("bool", bool):
                value = bool(value)
            values[field.name] = value
        return cls(**values)

    @property
    def text(self):
        """The canonical text, which conv_problem() reads; validates first."""
        context = context_for()
        text = ctypes.create_string_buffer(512)
        desc = self.desc()
        status = lib.doconv_conv_desc_format(context.address, ctypes.byref(desc), text, len(text))
        check(status, context.address)
        return text.value.decode()

    @property
    def src_shape(self):
        """The shape of src's array."""
        return memory_shape(self.src_layout, self.n, self.cin, self.h, self.w)

    @property
    def dst_shape(self):
        """The shape of dst's array; validates first."""
        context = context_for()
        shape = (ctypes.c_int64 * 4)()
        desc = self.desc()
        status = lib.doconv_conv_dst_shape(context.address, ctypes.byref(desc), shape)
        check(status, context.address)
        return memory_shape(self.dst_layout, *shape)

    @property
    def weight_shape(self):
        """The shape of the weight, OIHW; of a DO-Conv layer, that of W: Cout, Cin/groups, D_mul."""
        if self.d_mul:
            return (self.cout, self.cin // self.groups, self.d_mul)
        return (self.cout, self.cin // self.groups, self.kh, self.kw)

    def replace(self, **changes):
        """This problem with other fields."""
        return dataclasses.replace(self, **changes)


def conv_problem(text):
    """Reads a problem in oneDNN's notation with doconv's attributes.

    "mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu" is one; doconv.h has all of it.
    """
    context = context_for()
    desc = ConvDesc()
    status = lib.doconv_conv_desc_parse_sized(
        context.address, text.encode(), ctypes.byref(desc), ctypes.sizeof(desc)
    )
    check(status, context.address)
    return Problem.of(desc)


def as_problem(problem):
    """A Problem, or the text of one."""
    if isinstance(problem, Problem):
        return problem
    if isinstance(problem, str):
        return conv_problem(problem)
    raise TypeError(f"a Problem or its text is needed, not {type(problem).__name__}")
