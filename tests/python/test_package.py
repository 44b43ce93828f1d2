# SPDX-License-Identifier: MIT
"""The package doconv on NumPy arrays, against sums in double of the formulas in doconv.h."""
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

import numpy as np

# Never the user's cache.
os.environ.setdefault("DOCONV_CACHE", tempfile.mkdtemp(prefix="doconv-test-"))

import doconv  # noqa: E402
from doconv import _library  # noqa: E402
from doconv.problem import MAPPINGS, memory_shape  # noqa: E402

RANDOM = np.random.default_rng(1)


def random(*shape):
    return RANDOM.uniform(-0.5, 0.5, shape).astype(np.float32)


def to_layout(x, layout):
    """N x C x H x W as an array in a layout."""
    if layout == "nchw":
        return np.ascontiguousarray(x)
    if layout == "nhwc":
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    n, c, h, w = x.shape
    shape = memory_shape(layout, n, c, h, w)
    padded = np.zeros((n, shape[1] * shape[4], h, w), np.float32)
    padded[:, :c] = x
    blocks = padded.reshape(n, shape[1], shape[4], h, w)
    return np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2))


def convolve(p, x, weight, bias=None, residual=None):
    """dst, N x Cout x Hout x Wout, of logical tensors."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    x = np.pad(x, ((0, 0), (0, 0), (p.pad_top, p.pad_bottom), (p.pad_left, p.pad_right)))
    group_cin, group_cout = p.cin // p.groups, p.cout // p.groups
    extent_h = (p.kh - 1) * p.dilation_h + 1
    extent_w = (p.kw - 1) * p.dilation_w + 1
    hout = (x.shape[2] - extent_h) // p.stride_h + 1
    wout = (x.shape[3] - extent_w) // p.stride_w + 1
    y = np.zeros((p.n, p.cout, hout, wout))
    for o in range(p.cout):
        first = o // group_cout * group_cin
        for ky in range(p.kh):
            for kx in range(p.kw):
                top, left = ky * p.dilation_h, kx * p.dilation_w
                window = x[
                    :, first : first + group_cin,
                    top : top + (hout - 1) * p.stride_h + 1 : p.stride_h,
                    left : left + (wout - 1) * p.stride_w + 1 : p.stride_w,
                ]  # fmt: skip
                y[:, o] += np.einsum("nihw,i->nhw", window, weight[o, :, ky, kx])
    if bias is not None:
        y += bias.astype(np.float64)[:, None, None]
    if residual is not None:
        y += residual
    if p.relu:
        y = np.maximum(y, 0)
    if p.clamp is not None:
        y = np.clip(y, *p.clamp)
    return y


def compose(w, d, groups, mapping, identity):
    """Cout x Cin/groups x taps, element by element."""
    cout, group_cin, d_mul = w.shape
    cin, taps = group_cin * groups, d.shape[1]
    d = d.astype(np.float64)
    if identity:
        d = d + np.tile(np.eye(taps), d_mul // taps + 1)[:, :d_mul] * (
            np.arange(d_mul) < d_mul // taps * taps
        )
    weight = np.zeros((cout, group_cin, taps))
    for o in range(cout):
        for i in range(group_cin):
            channel = {
                "paper": o // (cout // groups) * group_cin + i,
                "pytorch": (o * group_cin + i) % cin,
                "tensorflow": (i * cout + o) // (cout // groups),
            }[mapping]
            weight[o, i] = d[channel] @ w[o, i].astype(np.float64)
    return weight


class TestConv(unittest.TestCase):
    def check(self, got, expected, tolerance=2e-5):
        self.assertEqual(got.shape, expected.shape)
        scale = np.abs(expected).max() or 1.0
        self.assertLess(np.abs(got - expected).max() / scale, tolerance)

    def test_layouts_and_epilogues(self):
        base = doconv.Problem(
            n=2, cin=20, h=9, w=11, cout=12, kh=3, kw=3, pad_top=1, pad_left=1, pad_bottom=1,
            pad_right=1,
        )  # fmt: skip
        for layout in ("nchw", "nhwc", "nChw8c", "nChw16c"):
            for changes in (
                {},
                {"stride_h": 2, "stride_w": 1, "groups": 4},
                {"has_bias": True, "relu": True},
                {"has_bias": True, "residual": True, "clamp": (0.0, 0.25)},
                {"dilation_h": 2, "pad_top": 0},
            ):
                p = base.replace(src_layout=layout, dst_layout=layout, **changes)
                with self.subTest(problem=p.text):
                    x, weight = random(2, 20, 9, 11), random(12, 20 // p.groups, 3, 3)
                    bias = random(12) if p.has_bias else None
                    plain = p.replace(src_layout="nchw", dst_layout="nchw")
                    residual = random(*plain.dst_shape) if p.residual else None
                    expected = convolve(p, x, weight, bias, residual)
                    conv = doconv.Conv(p, weight, bias)
                    if residual is not None:
                        residual = to_layout(residual, layout)
                    got = conv(to_layout(x, layout), residual=residual)
                    self.check(got, to_layout(expected, layout))

    def test_out_and_residual_in_place(self):
        conv = doconv.Conv("ic8ih5oc8kh1:residual", random(8, 8, 1, 1))
        x, dst = random(1, 8, 5, 5), random(1, 8, 5, 5)
        expected = conv(x, residual=dst)
        self.assertIs(conv(x, out=dst, residual=dst), dst)
        np.testing.assert_array_equal(dst, expected)

    def test_arrays_that_do_not_fit(self):
        conv = doconv.Conv("ic8ih5oc4kh1", random(4, 8, 1, 1))
        x = random(1, 8, 5, 5)
        with self.assertRaisesRegex(ValueError, r"x: shape \(1, 8, 5, 5\) is needed, not"):
            conv(random(1, 8, 5, 4))
        with self.assertRaisesRegex(TypeError, "x: float32 is needed, not float64"):
            conv(x.astype(np.float64))
        with self.assertRaisesRegex(TypeError, "x: an array is needed, not list"):
            conv([1.0])
        with self.assertRaisesRegex(ValueError, "out: shape"):
            conv(x, out=random(1, 4, 5, 4))
        with self.assertRaisesRegex(ValueError, "out: a contiguous array"):
            conv(x, out=np.empty((1, 5, 5, 4), np.float32).transpose(0, 3, 1, 2))
        constant = random(1, 4, 5, 5)
        constant.flags.writeable = False
        with self.assertRaisesRegex(ValueError, "out: is read-only"):
            conv(x, out=constant)
        with self.assertRaises(doconv.InvalidArgument):  # none was asked for
            conv(x, residual=random(1, 4, 5, 5))
        same = doconv.Conv("ic8ih5oc8kh1", random(8, 8, 1, 1))
        with self.assertRaises(doconv.InvalidArgument):
            same(x, out=x)
        with self.assertRaisesRegex(ValueError, "weight: shape"):
            doconv.Conv("ic8ih5oc4kh1", random(4, 8, 3, 3))
        with self.assertRaisesRegex(ValueError, "bias: the problem has one"):
            doconv.Conv("ic8ih5oc4kh1:bias", random(4, 8, 1, 1))

    def test_input_that_is_not_contiguous(self):
        weight = random(4, 8, 1, 1)
        conv = doconv.Conv("ic8ih5oc4kh1", weight)
        x = random(1, 5, 5, 8).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(conv(x), conv(np.ascontiguousarray(x)))

    def test_dlpack(self):
        class Foreign:
            """Another library's array."""

            def __init__(self, array):
                self.array = array

            def __dlpack__(self, **kwargs):
                return self.array.__dlpack__(**kwargs)

            def __dlpack_device__(self):
                return self.array.__dlpack_device__()

        conv = doconv.Conv("ic8ih5oc4kh1", Foreign(random(4, 8, 1, 1)))
        x = random(1, 8, 5, 5)
        np.testing.assert_array_equal(conv(Foreign(x)), conv(x))

    def test_do_conv_layer(self):
        text = "ic8ih7oc12kh3ph1:dmul=9,mapping=pytorch,identity"
        w, d = random(12, 8, 9), random(8, 9, 9)
        conv = doconv.Conv(text, w, d=d)
        weight = compose(w, d, 1, "pytorch", True).reshape(12, 8, 3, 3)
        x = random(1, 8, 7, 7)
        self.check(conv(x), convolve(conv.problem, x, weight))

    def test_variant_and_origin(self):
        problem = doconv.conv_problem("ic16ih10oc16kh3ph1")
        weight = random(16, 16, 3, 3)
        explanation = doconv.explain(problem)
        accepted = [c for c in explanation.candidates if c.refused is None]
        self.assertIn(explanation.variant, [c.variant for c in accepted])
        conv = doconv.Conv(problem, weight, variant=accepted[-1].variant)
        self.assertEqual((conv.variant, conv.origin), (accepted[-1].variant, "forced"))
        self.assertIn(accepted[-1].variant, str(explanation))
        with self.assertRaises(doconv.NotFound):
            doconv.Conv(problem, weight, variant="direct:none_such")

    def test_threads_calling_one_object(self):
        conv = doconv.Conv("ic64ih14oc64kh3ph1", random(64, 64, 3, 3))
        inputs = [random(1, 64, 14, 14) for _ in range(8)]
        expected = [conv(x) for x in inputs]
        failures = []

        def run(index):
            for _ in range(20):
                if not np.array_equal(conv(inputs[index]), expected[index]):
                    failures.append(index)

        workers = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(failures, [])

    def test_number_of_threads(self):
        before = doconv.get_num_threads()
        try:
            doconv.set_num_threads(1)
            self.assertEqual(doconv.get_num_threads(), 1)
            weight, x = random(64, 64, 3, 3), random(1, 64, 14, 14)
            problem = "ic64ih14oc64kh3ph1"
            one = doconv.Conv(problem, weight, deterministic=True)(x)
            three = doconv.Conv(problem, weight, deterministic=True, threads=3)(x)
            np.testing.assert_array_equal(one, three)
        finally:
            doconv.set_num_threads(None)
        self.assertEqual(doconv.get_num_threads(), before)
        for wrong in (0, -1, 5000, 1.5):
            with self.assertRaises(ValueError):
                doconv.set_num_threads(wrong)

    def test_forked_child(self):
        conv = doconv.Conv("ic64ih28oc64kh3ph1", random(64, 64, 3, 3), threads=2)
        x = random(1, 64, 28, 28)
        expected = conv(x)  # the threads exist now
        fork = multiprocessing.get_context("fork")
        queue = fork.Queue()

        def child():
            fresh = doconv.Conv(conv.problem, random(64, 64, 3, 3), threads=2)
            queue.put((np.array_equal(conv(x), expected), fresh(x).shape))

        process = fork.Process(target=child)
        process.start()
        self.assertEqual(queue.get(timeout=60), (True, (1, 64, 28, 28)))
        process.join(60)
        self.assertEqual(process.exitcode, 0)

    def test_empty_batch(self):
        conv = doconv.Conv("mb0_ic8ih5oc4kh1", random(4, 8, 1, 1))
        self.assertEqual(conv(np.empty((0, 8, 5, 5), np.float32)).shape, (0, 4, 5, 5))


class TestProblem(unittest.TestCase):
    def test_text_and_fields(self):
        text = "mb2_ic8ih9oc16kh3ph1sh2:src=nhwc,dst=nChw8c,bias,clamp=0/6,accuracy=strict"
        problem = doconv.conv_problem(text)
        self.assertEqual((problem.n, problem.stride_w, problem.clamp), (2, 2, (0.0, 6.0)))
        self.assertEqual((problem.has_bias, problem.accuracy), (True, "strict"))
        self.assertEqual(problem.src_shape, (2, 9, 9, 8))
        self.assertEqual(problem.dst_shape, (2, 2, 5, 5, 8))
        self.assertEqual(doconv.conv_problem(problem.text), problem)

    def test_refusals(self):
        with self.assertRaisesRegex(doconv.InvalidArgument, "qq"):
            doconv.conv_problem("ic1ih1oc1qq1")
        with self.assertRaises(doconv.InvalidProblem) as caught:
            doconv.Problem(n=1, cin=3, h=4, w=4, cout=4, groups=2).text
        self.assertIsInstance(caught.exception, ValueError)
        self.assertEqual(caught.exception.status, 2)
        with self.assertRaisesRegex(ValueError, "src_layout: 'nwhc' is none of"):
            doconv.Problem(n=1, cin=3, h=4, w=4, cout=4, src_layout="nwhc").desc()
        with self.assertRaises(TypeError):
            doconv.Problem(n=1.5, cin=3, h=4, w=4, cout=4).desc()
        with self.assertRaises(TypeError):
            doconv.Conv(7, random(1, 1, 1, 1))


class TestComposition(unittest.TestCase):
    def test_fold(self):
        for groups in (1, 2, 4):
            for d_mul in (3, 9, 20):
                for mapping in MAPPINGS:
                    for identity in (False, True):
                        w, d = random(8, 8 // groups, d_mul), random(8, 9, d_mul)
                        got = doconv.fold(w, d, groups=groups, mapping=mapping, identity=identity)
                        expected = compose(w, d, groups, mapping, identity)
                        np.testing.assert_allclose(
                            got, expected.reshape(8, -1, 3, 3), rtol=0, atol=1e-5
                        )

    def test_gradient(self):
        w, d, grad = random(6, 2, 5), random(4, 9, 5), random(6, 2, 3, 3)
        grad_w, grad_d = doconv.fold_gradient(w, d, grad, groups=2)
        step = 1e-2
        for array, gradient, index in ((w, grad_w, (3, 1, 2)), (d, grad_d, (2, 4, 3))):
            array[index] += step
            above = doconv.fold(w, d, groups=2)
            array[index] -= 2 * step
            below = doconv.fold(w, d, groups=2)
            array[index] += step
            slope = ((above - below) * grad).sum() / (2 * step)
            self.assertAlmostEqual(slope, gradient[index], places=3)

    def test_kernel_that_is_no_square(self):
        w, d = random(4, 3, 7), random(3, 7, 7)
        with self.assertRaisesRegex(ValueError, "kernel: is needed, since the 7 taps"):
            doconv.fold(w, d)
        self.assertEqual(doconv.fold(w, d, kernel=(1, 7)).shape, (4, 3, 1, 7))

    def test_layer_without_d(self):
        w = random(4, 3, 1)
        np.testing.assert_array_equal(doconv.fold(w, None), w.reshape(4, 3, 1, 1))


class TestTraining(unittest.TestCase):
    def test_step(self):
        for composition in ("kernel", "feature"):
            text = f"mb2_ic4ih6oc8kh3ph1:dmul=9,composition={composition},bias"
            layer = doconv.Training(text)
            x, w, d, bias = random(2, 4, 6, 6), random(8, 4, 9), random(4, 9, 9), random(8)
            y, saved = layer.forward(x, w, d, bias)
            weight = compose(w, d, 1, "paper", False).reshape(8, 4, 3, 3)
            expected = convolve(layer.problem, x, weight, bias)
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)
            grad = random(*y.shape)
            gradients = layer.backward(x, grad, w, d, bias, saved)
            self.assertEqual(sorted(gradients), ["bias", "d", "src", "weight"])
            np.testing.assert_allclose(gradients["bias"], grad.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
            # y is linear in w: the gradient times w is the sum of y's own part times grad.
            part = (expected - bias.astype(np.float64)[:, None, None]) * grad
            total = (gradients["weight"].astype(np.float64) * w).sum()
            self.assertAlmostEqual(total, part.sum(), places=2)
            only = layer.backward(x, grad, w, d, bias, wanted=["src"])
            np.testing.assert_array_equal(only["src"], gradients["src"])
            with self.assertRaisesRegex(ValueError, "wanted: 'dst'"):
                layer.backward(x, grad, w, d, bias, wanted=["dst"])


    def test_open_composition(self):
        layer = doconv.Training("mb2_ic4ih6oc8kh3ph1:dmul=9,composition=auto")
        self.assertIn(layer.composition, ("kernel", "feature"))
        self.assertEqual(doconv.Training("ic4ih6oc8kh3ph1").composition, "none")
        with self.assertRaisesRegex(ValueError, "purpose: 'both'"):
            doconv.Training("ic4ih6oc8kh3ph1", purpose="both")
        x, w, d = random(2, 4, 6, 6), random(8, 4, 9), random(4, 9, 9)
        y, _ = layer.forward(x, w, d)
        weight = compose(w, d, 1, "paper", False).reshape(8, 4, 3, 3)
        np.testing.assert_allclose(y, convolve(layer.problem, x, weight), rtol=0, atol=1e-4)


class TestTuning(unittest.TestCase):
    def test_tune_and_cache(self):
        problem = doconv.conv_problem("ic16ih8oc16kh3ph1")
        tuned = doconv.tune(problem, force=True, budget_seconds=0.05, threads=1)
        self.assertFalse(tuned.from_cache)
        self.assertGreater(len(tuned.measured), 1)
        self.assertIn(tuned.variant, [m.variant for m in tuned.measured])
        self.assertTrue(0 <= tuned.confidence <= 1 and tuned.against and tuned.when.endswith("Z"))
        text = doconv.export_cache()
        self.assertIn(tuned.variant, text)
        self.assertGreaterEqual(doconv.import_cache(text), 0)
        with self.assertRaises(doconv.InvalidFile):
            doconv.import_cache(text[: len(text) // 2])

    def test_modes(self):
        with self.assertRaises(doconv.NotFound):
            doconv.Conv("ic19ih8oc16kh3ph1", random(16, 19, 3, 3), tune="only")
        with self.assertRaisesRegex(ValueError, "tune: 'always' is none of"):
            doconv.Conv("ic16ih8oc16kh3ph1", random(16, 16, 3, 3), tune="always")

    def test_info(self):
        info = doconv.info()
        self.assertEqual(info["version"], doconv.__version__)
        self.assertGreaterEqual(info["threads"], 1)
        self.assertIn(info["isa"], ("none", "avx2", "avx512", "neon"))


class TestBinding(unittest.TestCase):
    def test_structs_are_the_header_s(self):
        """Each field's offset, as a C compiler has it."""
        compiler = os.environ.get("CC", "cc")
        include = pathlib.Path(__file__).resolve().parents[2] / "include"
        structs = {
            name: kind
            for name, kind in vars(_library).items()
            if isinstance(kind, type) and hasattr(kind, "_fields_") and name != "FoldKernel"
        }
        lines, expected = [], []
        for name, kind in structs.items():
            c_name = "doconv" + "".join("_" + c.lower() if c.isupper() else c for c in name)
            for field, _ in kind._fields_:
                lines.append(f'printf("%zu\\n", offsetof({c_name}, {field}));')
                expected.append((c_name, field, getattr(kind, field).offset))
        with tempfile.TemporaryDirectory() as folder:
            source, program = pathlib.Path(folder, "offsets.c"), pathlib.Path(folder, "offsets")
            headers = "".join(f"#include <doconv/{h}.h>\n" for h in
                              ("doconv", "doconv_train", "doconv_tune"))  # fmt: skip
            source.write_text(
                "#include <stddef.h>\n#include <stdio.h>\n" + headers
                + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
            )  # fmt: skip
            try:
                subprocess.run([compiler, "-I", include, source, "-o", program], check=True)
            except FileNotFoundError:
                self.skipTest(f"there is no {compiler}")
            offsets = subprocess.run([program], check=True, capture_output=True, text=True)
        got = [int(line) for line in offsets.stdout.split()]
        self.assertEqual([(n, f, at) for (n, f, _), at in zip(expected, got)], expected)

    def test_warnings_reach_the_logger(self):
        program = "import logging, doconv; logging.basicConfig(); doconv.info()"
        environment = {**os.environ, "DOCONV_MAX_ISA": "nonsense"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        self.assertRegex(done.stderr, "WARNING:doconv:.*DOCONV_MAX_ISA")

    def test_library_that_is_not_there(self):
        environment = {**os.environ, "DOCONV_LIBRARY": "/no/such/library.so"}
        done = subprocess.run(
            [sys.executable, "-c", "import doconv"], env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        self.assertIn("ImportError: doconv: the shared library can't be loaded", done.stderr)


if __name__ == "__main__":
    unittest.main()
