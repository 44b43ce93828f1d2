#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compilers spill: looks at the machine code of every tile of the libraries of kernels.

check_hot_loops.py OBJDUMP LIBRARY ...

Each function direct_tile_P_V (P pixels, V vectors), pixel_tile_1_V, planes_tile_P_V (P output
channels) or product_tile_P_V (P rows) must have a loop with exactly 4 * P * V FMAs (four steps) in
which no vector touches the stack; each compose_tile_P_R (P taps, R rows) likewise one with P * R;
each grouped_slide_S_P (stride S, P pixels) one with 3 * P and one with 5 * P (three or five taps of
a kernel's row), each taps_correlate_Q and taps_scatter_Q one with Q, each correlate_tile_3_3 one
with 9. Winograd's transforms must have no such vector at all: what they keep between the axes is an
array, which they reach by other registers; and where they go line by line, a loop of a line's
arithmetic and no more than a tenth beside it. Exits 1 if one has not, or if there is no such
function at all.
"""
import re
import subprocess
import sys

FMA = re.compile(r"\b(vfmadd\d+ps|fmla)\b")
ARITHMETIC = re.compile(r"^(?:vf?n?m?(?:add|sub|mul)\d*ps|f(?:add|sub|mul|mla|mls))\s+[^%]*[%v]")
TRANSFORMS = ("winograd_input", "winograd_output", "winograd_filter_rows")
# The operations of a line, by the form in a kernel's name; of one axis, the output's line has what
# follows it in its loop.
LINES = {
    "winograd_input": {"2x2": 4, "4x4": 12, "6x6": 24, "1x4": 12, "1x4k5": 24, "1x3k7": 36},
    "winograd_output": {"2x2": 4, "4x4": 10, "6x6": 20},
}
# A vector register and the stack pointer in one instruction.
SPILL = re.compile(r"[xyz]mm\d+.*\(%rsp|\(%rsp.*[xyz]mm\d+|\bq\d+,.*\[sp|\bv\d+\..*\[sp")
JUMP = re.compile(r"^(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\b.*?([0-9a-f]+) <")


def expected_fmas(name):
    """The FMAs of a tile function's loops; none: not a tile function."""
    match = re.match(r"(?:direct|planes|pixel|product)_tile_(\d+)_(\d+)$", name)
    if match:
        return [4 * int(match.group(1)) * int(match.group(2))]
    match = re.match(r"compose_tile_(\d+)_(\d+)$", name)
    if match:
        return [int(match.group(1)) * int(match.group(2))]
    match = re.match(r"taps_(?:correlate|scatter)_(\d+)$", name)
    if match:
        return [int(match.group(1))]
    if name == "correlate_tile_3_3":
        return [9]
    match = re.match(r"grouped_slide_\d+_(\d+)$", name)
    # One pixel fills no registers, and its loop may be unrolled.
    pixels = int(match.group(1)) if match else 1
    return [3 * pixels, 5 * pixels] if pixels > 1 else []


def is_checked(name):
    """Is a function one of those that this looks at?"""
    return name in TRANSFORMS or bool(expected_fmas(name))


def functions(objdump, libraries):
    """Yields (object, name, [(address, text)]) of the tiles."""
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", *libraries], check=True,
                          capture_output=True, text=True).stdout
    unit = name = None
    code = []
    for line in text.splitlines() + [""]:
        if line.endswith(("file format elf64-x86-64", "file format elf64-littleaarch64")):
            unit = line.split(":")[0]
        match = re.match(r"^[0-9a-f]+ <(\w+)>:$", line)
        if match or not line.strip():
            if name and code:
                yield unit, name, code
            name, code = (match.group(1) if match and is_checked(match.group(1)) else None), []
        elif name:
            match = re.match(r"^\s*([0-9a-f]+):\s+(.*)$", line)
            if match:
                code.append((int(match.group(1), 16), match.group(2)))


def loops(code):
    """Yields the instructions between each backward jump and its target."""
    for address, text in code:
        match = JUMP.match(text)
        if match and code[0][0] <= int(match.group(1), 16) <= address:
            start = int(match.group(1), 16)
            yield [t for a, t in code if start <= a <= address]


def loop_wrong(code, fmas):
    """Why a function has no loop of so many FMAs that spares the stack; or an empty text."""
    found = [body for body in loops(code) if sum(bool(FMA.search(t)) for t in body) == fmas]
    if any(not any(SPILL.search(t) for t in body) for body in found):
        return ""
    return f"{'vectors on the stack in its loop' if found else 'no loop'} of {fmas} FMAs"


def line_is_short(unit, name, code):
    """Has a transform a loop of a line's operations, if it is known how many these are?"""
    form = re.search(r"winograd_f32_(\w+?)_(?:avx|neon)", unit)
    line = LINES.get(name, {}).get(form.group(1)) if form else None
    counts = [sum(bool(ARITHMETIC.match(t)) for t in body) for body in loops(code)]
    return line is None or any(line <= count <= 1.1 * line for count in counts)


def main():
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    checked = failed = 0
    for unit, name, code in functions(sys.argv[1], sys.argv[2:]):
        checked += 1
        if name in TRANSFORMS:
            if any(SPILL.search(t) for _, t in code):
                failed += 1
                print(f"{unit}: {name}: vectors on the stack")
            elif not line_is_short(unit, name, code):
                failed += 1
                print(f"{unit}: {name}: no loop of a line's arithmetic")
            continue
        wrong = [text for fmas in expected_fmas(name) if (text := loop_wrong(code, fmas))]
        if wrong:
            failed += 1
            print(f"{unit}: {name}: {', '.join(wrong)}")
    print(f"{checked - failed} passed, {failed} failed")
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
