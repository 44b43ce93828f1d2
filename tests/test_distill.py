#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tries tuner/distill.py on made-up machines: test_distill.py

Rules are found where a kernel is faster for a kind of shapes that the estimate is wrong about, and
are said to be no better where what was measured has no pattern.
"""
import contextlib
import io
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tuner"))
import distill # pylint: disable=wrong-import-position

# What stands for the command: two kernels that take everything, a long text and a refused kernel.
COMMAND = """#!/bin/sh
cat <<'TEXT'
problem   any

candidate                              space KiB  packed KiB  error  estimate ms
direct:one@avx2:src=inplace,rows=7           0.0         4.0      1       0.1000
direct:two@avx2:src=inplace,rows=7,          0.0         4.0      1       0.2000
  kc=128
winograd:three@avx2:tiles=16                  its rounding is more than the class
  allows
direct:two@avx2:src=inplace,rows=1           0.0         4.0      1       0.3000

choice    direct:one@avx2:src=inplace,rows=7
TEXT
"""
ONE, TWO = "direct:one@avx2:src=inplace,rows=7", "direct:two@avx2:src=inplace,rows=7,kc=128"
CHANNELS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def check(what, holds, detail=""):
    """Ends the test if something doesn't hold."""
    if not holds:
        sys.exit(f"FAILED: {what}: {detail}")


def export(times):
    """An export in which problems of so many channels took times(inputs, outputs)."""
    lines = ["doconv-export 1", "", "environment 0123456789abcdef", "doconv-cache 1", "cpu Any",
             "isa avx2", ""]
    for inputs in CHANNELS:
        for outputs in CHANNELS[::2]:
            problem = f"mb1_ic{inputs}ih9iw9oc{outputs}oh9ow9kh3kw3sh1sw1ph1pw1dh0dw0"
            one, two = times(inputs, outputs)
            for weights, taken in ("warm", (one, two)), ("cold", (two, one)): # warm ones count
                lines += ["doconv-cache 1", f"key {problem}:src=nhwc,dst=nhwc threads=1 "
                          f"runner=default workspace=0 weights={weights}"]
                lines += [f"measured {time} 11 100 0 {variant}"
                          for variant, time in zip((ONE, TWO), taken)]
                lines += ["checksum 0", ""]
    return "\n".join(lines + ["end", ""])


def run(directory, text):
    """The exit status and what the script printed."""
    path, command = pathlib.Path(directory, "export.txt"), pathlib.Path(directory, "command")
    path.write_text(text, encoding="utf-8")
    command.write_text(COMMAND, encoding="utf-8")
    os.chmod(command, 0o755)
    printed = io.StringIO()
    sys.argv = ["distill.py", str(path), f"--doconv={command}", f"--networks={directory}"]
    with contextlib.redirect_stdout(printed):
        try:
            distill.main()
            status = 0
        except SystemExit as end:
            status = end.code
    return status, printed.getvalue()


def main():
    """The test."""
    with tempfile.TemporaryDirectory() as directory:
        status, text = run(directory, export(lambda i, o: (900, 600) if i <= 40 else (600, 900)))
        check("a kind of shapes has a rule", status == 0 and
              "avx2: group_inputs <= 40: direct:two@avx2\n" in text and
              "avx2: group_inputs > 40: estimate\n" in text, text)
        check("the regrets are told", text.count("loses") == 4 and
              "estimate                 loses 10.94 %, at worst  33.3 %" in text and
              "rules                    loses  0.00 %, at worst   0.0 %" in text and
              "rules, layer unseen      loses  0.00 %, at worst   0.0 %" in text, text)
        # Every third problem is another one's: no feature tells which.
        status, text = run(directory,
                           export(lambda i, o: (900, 600) if (7 * i + o) // 8 % 3 == 0 else
                                  (600, 900)))
        check("no pattern is no rule", status == 3 and "the estimate does better" in text, text)
        # Of other machines nothing is known here.
        status, text = run(directory, export(lambda i, o: (9, 6)).replace("two@avx2", "two@neon")
                           .replace("one@avx2", "one@neon"))
        check("unknown candidates are left out", status == "distill.py: no entry can be used" and
              "98 entries are left out" in text, (status, text))


if __name__ == "__main__":
    main()
