# SPDX-License-Identifier: MIT
"""One layer on NumPy arrays: planned, tuned, run, explained."""
import numpy as np

import doconv

random = np.random.default_rng(0)
problem = doconv.conv_problem("mb1_ic64ih56oc64kh3ph1:src=nhwc,dst=nhwc,bias,relu")
weight = random.standard_normal(problem.weight_shape, np.float32) / 24
bias = random.standard_normal(problem.cout, np.float32)
x = random.standard_normal(problem.src_shape, np.float32)

conv = doconv.Conv(problem, weight, bias)
y = conv(x)
print(f"{x.shape} -> {y.shape} by {conv.variant} ({conv.origin})")

# Measured once, the fastest variant is found again by every later run, in any language.
tuned = doconv.tune(problem, budget_seconds=0.25)
print(f"fastest: {tuned.variant}, {1e6 * tuned.seconds:.0f} us")
again = doconv.Conv(problem, weight, bias)
print(f"the difference is {np.abs(again(x) - y).max():.1e}")

# What there was to choose from.
for candidate in doconv.explain(problem).candidates[:3]:
    print(f"  {candidate.variant}: {1e6 * candidate.estimated_seconds:.0f} us by estimate")
