#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's side of doconv-study, which starts this file and talks to it by lines on two pipes.

Arguments: the number of threads. Says "doconv-study-pytorch 1 VERSION" once PyTorch is there, then
answers each line with one line, "no REASON" where it can't:

  case N CIN H W COUT KH KW SH SW PH PW DH DW GROUPS D_MUL
      "ok": the data of a case is made, all else is forgotten
  time COMPOSITION PASS FORMAT CALLS
      "ms X", of one call: so many calls, after one that isn't timed if WARM is given as a fifth
      word
  sums NAME
      "sums X ...": projections of a tensor that the last call left: dst, src, weight, d
  quit
      ends

COMPOSITION: plain, kernel, feature. PASS: forward (no gradients wanted), step (forward and
backward, gradients of the input and all parameters). FORMAT: contiguous, channels_last.
"""
import gc
import os
import sys
import time

PERIOD = 1000003  # of the data: a prime, so that it never falls in step with a tensor's shape
CHUNK = 65536     # elements of a projection
DISTURBED = 0.03  # share of time off the core from which a sample is taken again
ATTEMPTS = 3

try:
    import warnings

    warnings.filterwarnings("ignore")
    import torch
    from torch.nn.functional import conv2d
except Exception as error:  # pylint: disable=broad-except
    # A broken installation fails in many ways.
    print("no " + " ".join(f"PyTorch can't be imported: {error}".split()), flush=True)
    sys.exit(1)

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def make_table():
    """The numbers that study_data.c makes: the upper 24 bits of a linear congruential generator, as
    multiples of 2^-23 in [-1, 1)."""
    state, numbers = 1, []
    for _ in range(PERIOD):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        numbers.append(((state >> 8) - 8388608) / 8388608)
    return torch.tensor(numbers, dtype=torch.float32)


class Case:
    """One layer, batch and D_mul, its data and what the last call left."""

    def __init__(self, table, words):
        numbers = [int(word) for word in words]
        self.n, self.cin, self.h, self.w, self.cout, self.kh, self.kw, *rest = numbers
        self.stride, self.pad, self.dilation = rest[0:2], rest[2:4], rest[4:6]
        self.groups, self.d_mul = rest[6:8]
        self.table, self.formatted, self.left = table, {}, {}
        taps = self.kh * self.kw
        self.w_data = self.numbers(2, (self.cout, self.cin // self.groups, self.d_mul))
        self.d_data = self.numbers(3, (self.cin, taps, self.d_mul))
        # As in the official module: D is stored without the identity, which is a buffer.
        identity = torch.eye(taps).repeat(1, self.d_mul // taps)
        self.identity = torch.cat([identity, torch.zeros(taps, self.d_mul % taps)], 1).unsqueeze(0)
        with torch.no_grad():
            self.folded = self.fold(self.w_data, self.d_data + self.identity)

    def numbers(self, which, shape):
        """The study's numbers in this shape; which tensor it is tells where in the table they
        start."""
        count = 1
        for extent in shape:
            count *= extent
        start = which * 7919
        return self.table.repeat(2 + count // PERIOD)[start:start + count].reshape(shape)

    def fold(self, w, d):
        """W' of kernel composition. The official module's einsum, but for grouped layers other than
        depthwise ones, where it computes something else."""
        g, shape = self.groups, (self.cout, self.cin // self.groups, self.kh, self.kw)
        if g == 1 or (g == self.cin and g == self.cout):
            w = w.reshape(self.cout // g, self.cin, self.d_mul)
            return torch.einsum("ims,ois->oim", d, w).reshape(shape)
        w = w.reshape(g, self.cout // g, self.cin // g, self.d_mul)
        d = d.reshape(g, self.cin // g, self.kh * self.kw, self.d_mul)
        return torch.einsum("gims,gois->goim", d, w).reshape(shape)

    def inputs(self, layout, with_gradient):
        """src (and the gradient of dst) in a memory format, made once."""
        if (layout, "src") not in self.formatted:
            src = self.numbers(0, (self.n, self.cin, self.h, self.w))
            self.formatted[layout, "src"] = src.contiguous(memory_format=FORMATS[layout])
        if with_gradient and (layout, "grad") not in self.formatted:
            axes = zip((self.h, self.w), self.pad, self.dilation, (self.kh, self.kw), self.stride)
            out = [(size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
                   for size, pad, dilation, kernel, stride in axes]
            grad = self.numbers(1, (self.n, self.cout, *out))
            self.formatted[layout, "grad"] = grad.contiguous(memory_format=FORMATS[layout])
        return self.formatted[layout, "src"], self.formatted.get((layout, "grad"))

    def parameters(self, composition, layout):
        if composition == "plain":
            return [self.folded.clone().contiguous(memory_format=FORMATS[layout])]
        return [self.w_data.clone(), self.d_data.clone()]

    def forward(self, composition, src, parameters):
        taps = dict(stride=self.stride, padding=self.pad, dilation=self.dilation)
        if composition == "plain":
            return conv2d(src, parameters[0], groups=self.groups, **taps)
        w, d = parameters[0], parameters[1] + self.identity
        if composition == "kernel":
            return conv2d(src, self.fold(w, d), groups=self.groups, **taps)
        depthwise = d.permute(0, 2, 1).reshape(self.cin * self.d_mul, 1, self.kh, self.kw)
        features = conv2d(src, depthwise, groups=self.cin, **taps)
        return conv2d(features, w.reshape(self.cout, -1, 1, 1), groups=self.groups)

    def time(self, composition, which, layout, calls, warm):
        """Milliseconds of a call, of the least disturbed of some attempts."""
        self.left = {}
        step = which == "step"
        src, grad = self.inputs(layout, step)
        parameters = self.parameters(composition, layout)
        if step:
            src = src.detach().requires_grad_()
            for parameter in parameters:
                parameter.requires_grad_()

        def call():
            if not step:
                with torch.no_grad():
                    return self.forward(composition, src, parameters)
            for tensor in (src, *parameters):
                tensor.grad = None  # as zero_grad(set_to_none=True) does
            dst = self.forward(composition, src, parameters)
            dst.backward(grad)
            return dst.detach()

        best = None
        dst = call() if warm else None
        for _ in range(ATTEMPTS):
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(calls):
                dst = None  # its memory is free before the next, as in a network
                dst = call()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            if best is None or seconds - cpu < best[1]:
                best = seconds, seconds - cpu
            if torch.get_num_threads() > 1 or best[1] <= DISTURBED * best[0] or seconds > 0.2:
                break
        self.left = {"dst": dst}
        if step:
            self.left.update(src=src.grad, weight=parameters[0].grad)
            if composition != "plain":
                self.left["d"] = parameters[1].grad
        return 1e3 * best[0] / calls

    def sums(self, name):
        """Each chunk of a tensor, in the order N, C, H, W, by the table's numbers: any element that
        is off moves its chunk's sum."""
        flat, by = self.left[name].contiguous().reshape(-1), self.table[:CHUNK].double()
        chunks = (flat[at:at + CHUNK].double() for at in range(0, len(flat), CHUNK))
        return [float(torch.dot(chunk, by[:len(chunk)])) for chunk in chunks]


def answer(table, case, words):
    """The case from now on, and the line that answers."""
    verb, *rest = words
    if verb == "case":
        del case
        gc.collect()
        return Case(table, rest), "ok"
    if verb == "time":
        composition, which, layout, calls, *options = rest
        taken = case.time(composition, which, layout, int(calls), "warm" in options)
        return case, f"ms {taken:.9g}"
    if verb == "sums":
        return case, "sums " + " ".join(f"{value:.17g}" for value in case.sums(rest[0]))
    raise ValueError(f"unknown line {verb}")


def main():
    # What the study reads is this pipe and nothing that a library prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    table = make_table()
    print("doconv-study-pytorch 1", torch.__version__, file=answers, flush=True)
    case = None
    for line in sys.stdin:
        words = line.split()
        if words == ["quit"]:
            break
        try:
            old, case = case, None
            if words[0] == "case":
                old = None  # its memory is free before the next one's is taken
            case, text = answer(table, old, words)
        except Exception as error:  # pylint: disable=broad-except
            # One line, whatever PyTorch raises; the case is over.
            text = "no " + " ".join(f"{type(error).__name__}: {error}".split())[:500]
            gc.collect()
        print(text, file=answers, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # the study is gone
