# SPDX-License-Identifier: MIT
"""doconv.torch against PyTorch's own operators and the official module's formula."""
import copy
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import unittest

os.environ.setdefault("DOCONV_CACHE", tempfile.mkdtemp(prefix="doconv-test-"))

try:
    import torch
except ImportError as error:
    raise unittest.SkipTest(f"there is no PyTorch: {error}") from None

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import doconv  # noqa: E402
import doconv.torch as dt  # noqa: E402
from doconv.torch import functional  # noqa: E402


class Formula(nn.Module):
    """DO-Conv as the paper writes it, a weight at a time, in PyTorch's operators."""

    def __init__(self, layer):
        super().__init__()
        self.__dict__["layer"] = layer  # no part of this module
        self.W = nn.Parameter(layer.W.detach().clone())
        self.D = nn.Parameter(layer.D.detach().clone()) if layer.D is not None else None
        self.bias = nn.Parameter(layer.bias.detach().clone()) if layer.bias is not None else None

    def weight(self):
        cout, group_cin, d_mul = self.W.shape
        if self.D is None:
            return self.W.reshape(cout, group_cin, 1, 1)
        cin, taps = self.layer.in_channels, self.D.shape[1]
        d = self.D.clone()
        for s in range(d_mul // taps * taps):  # the identity, repeated
            one = torch.zeros_like(d)
            one[:, s % taps, s] = 1
            d = d + one
        rows = []
        for o in range(cout):
            channels = [(o * group_cin + i) % cin for i in range(group_cin)]
            rows.append(torch.stack([d[c] @ self.W[o, i] for i, c in enumerate(channels)]))
        return torch.stack(rows).reshape(cout, group_cin, *self.layer.kernel_size)

    def forward(self, x):
        layer = self.layer
        if layer.padding_mode == "zeros":
            return F.conv2d(x, self.weight(), self.bias, layer.stride, layer.padding,
                            layer.dilation, layer.groups)  # fmt: skip
        top, left = layer.padding
        x = F.pad(x, (left, left, top, top), mode=layer.padding_mode)
        return F.conv2d(x, self.weight(), self.bias, layer.stride, 0, layer.dilation, layer.groups)


KINDS = [
    {},
    {"D_mul": 4},
    {"D_mul": 20},
    {"stride": 2, "padding": 1},
    {"groups": 4, "padding": (1, 2), "bias": False},
    {"groups": 8, "padding": 1},
    {"dilation": 2, "padding": 2},
    {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid"},
    {"kernel_size": 1},
    {"kernel_size": (1, 7), "padding": (0, 3)},
    {"kernel_size": (1, 7), "padding": (0, 3), "padding_mode": "reflect"},
    {"kernel_size": 2, "padding": "same"},
    {"padding": 1, "padding_mode": "circular"},
    {"composition": "feature", "padding": 1},
    {"composition": "auto", "padding": 1},
    {"composition": "auto", "groups": 4},
]


def make(kind, **more):
    values = {"kernel_size": 3, **kind, **more}
    torch.manual_seed(0)
    layer = dt.DOConv2d(8, 16, **values)
    if layer.D is not None:
        nn.init.normal_(layer.D, std=0.1)
    return layer


def error(got, expected):
    return ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


class TestModule(unittest.TestCase):
    def compare(self, layer, x):
        formula = Formula(layer).double()
        y = layer(x)
        x_double = x.detach().double().requires_grad_()
        expected = formula(x_double)
        self.assertEqual(y.shape, expected.shape)
        self.assertLess(error(y.double(), expected), 1e-5)
        grad = torch.randn_like(y)
        y.backward(grad)
        expected.backward(grad.double())
        self.assertLess(error(x.grad.double(), x_double.grad), 2e-5)
        for name, parameter in formula.named_parameters():
            got = getattr(layer, name).grad
            self.assertLess(error(got.double(), parameter.grad), 2e-5, name)

    def test_kinds_of_layers(self):
        for kind in KINDS:
            for form in (torch.contiguous_format, torch.channels_last):
                with self.subTest(kind=kind, form=form):
                    x = torch.randn(2, 8, 10, 12).contiguous(memory_format=form)
                    layer = make(kind)
                    y = layer(x)
                    if "padding_mode" not in kind:  # PyTorch's padding may lose the order
                        self.assertTrue(y.is_contiguous(memory_format=form))
                    self.compare(layer, x.requires_grad_())

    def test_input_without_batch(self):
        layer, x = make({"padding": 1}), torch.randn(8, 10, 12)
        torch.testing.assert_close(layer(x), layer(x.unsqueeze(0)).squeeze(0))

    def test_empty_batch(self):
        layer = make({"padding": 1})
        x = torch.empty(0, 8, 10, 12, requires_grad=True)
        y = layer(x)
        self.assertEqual(y.shape, (0, 16, 10, 12))
        y.sum().backward()
        self.assertEqual(layer.W.grad.abs().sum(), 0)

    def test_names_of_the_official_module(self):
        layer = make({})
        self.assertEqual(list(layer.state_dict()), ["W", "D", "d_diag", "bias"])
        self.assertEqual(layer.W.shape, (16, 8, 9))
        self.assertEqual(layer.D.shape, (8, 9, 9))
        self.assertFalse(layer.d_diag.requires_grad)
        old = {("D_diag" if k == "d_diag" else k): v for k, v in layer.state_dict().items()}
        other = dt.DOConv2d(8, 16, 3)
        other.load_state_dict(old)
        x = torch.randn(1, 8, 5, 5)
        torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)
        self.assertEqual(list(dt.DOConv2d(8, 16, 1).state_dict()), ["W", "bias"])
        # The fourth argument is D_mul.
        self.assertEqual(dt.DOConv2d(8, 16, 3, 12, 2).stride, (2, 2))

    def test_other_types_and_devices(self):
        layer = make({"padding": 1, "groups": 4}).double()
        x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
        torch.testing.assert_close(layer(x), Formula(layer)(x))
        meta = make({"padding": 1}).to("meta")
        self.assertEqual(meta(torch.empty(2, 8, 6, 6, device="meta")).shape, (2, 16, 6, 6))

    def test_autocast(self):
        layer, x = make({"padding": 1}), torch.randn(1, 8, 6, 6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x.bfloat16())
        self.assertEqual(y.dtype, torch.float32)
        self.assertLess(error(y, layer(x)), 0.02)

    def test_copies(self):
        layer, x = make({"padding": 1}), torch.randn(1, 8, 6, 6)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(other(x), layer(x), rtol=0, atol=0)

    def test_refusals(self):
        layer = make({})
        with self.assertRaisesRegex(ValueError, "input: 7 channels, where the weight has 8 x 1"):
            layer(torch.randn(1, 7, 6, 6))
        with self.assertRaisesRegex(ValueError, "3 or 4 dimensions"):
            layer(torch.randn(8, 6))
        with self.assertRaisesRegex(ValueError, "groups"):
            dt.DOConv2d(8, 16, 3, groups=3)
        with self.assertRaisesRegex(ValueError, "padding='same' is not supported for strided"):
            make({"padding": "same", "stride": 2})(torch.randn(1, 8, 6, 6))
        with self.assertRaises(doconv.InvalidProblem):
            layer(torch.randn(1, 8, 2, 2))  # smaller than the kernel
        w, d = torch.randn(16, 8, 9), torch.randn(8, 9, 9)
        for wrong in ({"composition": "both"}, {"mapping": "caffe"}, {"kernel_size": (1, 7)}):
            with self.assertRaises(ValueError):
                functional.do_conv2d(torch.randn(1, 8, 6, 6), w, d, **wrong)


class TestOperators(unittest.TestCase):
    def samples(self):
        x, w, d = torch.randn(2, 8, 6, 7), torch.randn(4, 8, 9), torch.randn(8, 9, 9)
        bias = torch.randn(4)
        for t in (x, w, d, bias):
            t.requires_grad_()
        rest = ([3, 3], [1, 2], [1, 0, 1, 2], [1, 1], 1, "kernel", "pytorch")
        yield (x, w, d, bias, *rest)
        channels_last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(4, 8, 3, 3, requires_grad=True)
        yield (channels_last, weight, None, None, *rest)

    def test_opcheck(self):
        for sample in self.samples():
            torch.library.opcheck(torch.ops.doconv.do_conv2d.default, sample)
            x, w, d, bias, *rest = sample
            grad = torch.randn_like(torch.ops.doconv.do_conv2d(*sample)).requires_grad_()
            wanted = [True, True, d is not None, bias is not None]
            torch.library.opcheck(
                torch.ops.doconv.do_conv2d_backward.default, (grad, x, w, d, *rest, wanted)
            )

    def test_gradcheck(self):
        # In double it is the formula's, which checks what is derived from it.
        for sample in self.samples():
            doubles = [t.detach().double().requires_grad_() if torch.is_tensor(t) else t
                       for t in sample]  # fmt: skip
            tensors = [t for t in doubles if torch.is_tensor(t)]

            def call(*given):
                given = iter(given)
                return torch.ops.doconv.do_conv2d(
                    *(next(given) if torch.is_tensor(t) else t for t in doubles)
                )

            self.assertTrue(torch.autograd.gradcheck(call, tensors, fast_mode=True))
            self.assertTrue(torch.autograd.gradgradcheck(call, tensors, fast_mode=True))

    def test_second_derivative_in_fp32(self):
        for sample in self.samples():
            found = []
            for dtype in (torch.float32, torch.float64):
                torch.manual_seed(1)
                given = [t.detach().to(dtype).requires_grad_() if torch.is_tensor(t) else t
                         for t in sample]  # fmt: skip
                y = torch.ops.doconv.do_conv2d(*given)
                tensors = [t for t in given if torch.is_tensor(t)]
                first = torch.autograd.grad(y.pow(2).sum(), tensors, create_graph=True)
                total = sum(g.pow(2).sum() for g in first)
                found.append(torch.autograd.grad(total, tensors))
            for got, expected in zip(*found):
                self.assertLess(error(got.double(), expected), 1e-4)

    def test_plain_convolution(self):
        x = torch.randn(2, 6, 9, 9, requires_grad=True)
        weight = torch.randn(8, 3, 3, 5, requires_grad=True)
        bias = torch.randn(8, requires_grad=True)
        for options in ({}, {"stride": 2}, {"padding": (1, 2)}, {"dilation": (2, 1)}):
            got = functional.conv2d(x, weight, bias, groups=2, **options)
            expected = F.conv2d(x, weight, bias, groups=2, **options)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            grad = torch.randn_like(got)
            for a, b in zip(torch.autograd.grad(got, (x, weight, bias), grad),
                            torch.autograd.grad(expected, (x, weight, bias), grad)):  # fmt: skip
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Network(nn.Module):
    """A small ResNet: what conversion, compilation and training are tried on."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.a = nn.Conv2d(16, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.down = nn.Conv2d(16, 32, 1, 2)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        return self.head(self.down(x).mean((2, 3)))


class TestNetworks(unittest.TestCase):
    def network(self, d_mul=None):
        torch.manual_seed(0)
        plain = Network().eval()
        return plain, dt.convert(plain, d_mul)

    def test_convert_and_fold(self):
        x = torch.randn(2, 3, 32, 32)
        for d_mul in (None, 60):
            plain, layers = self.network(d_mul)
            self.assertIsInstance(layers.stem, dt.DOConv2d)
            self.assertIsInstance(layers.down, nn.Conv2d)  # 1x1
            self.assertIsInstance(plain.stem, nn.Conv2d)  # the original is as it was
            self.assertLess(error(layers(x), plain(x)), 1e-5)
            self.assertLess(dt.check_fold(layers, x), 1e-5)
            folded = dt.fold(layers)
            self.assertIsInstance(folded.stem, nn.Conv2d)
            self.assertEqual(list(folded.state_dict()), list(plain.state_dict()))
        with self.assertRaisesRegex(ValueError, "stem: d_mul 9 has no room"):
            dt.convert(plain, 9, include="stem")
        some = dt.convert(plain, include=["a", "b"], exclude="b")
        kinds = [type(m) for m in (some.stem, some.a, some.b)]
        self.assertEqual(kinds, [nn.Conv2d, dt.DOConv2d, nn.Conv2d])

    def test_training_follows_the_formula(self):
        _, ours = self.network()
        formulas = copy.deepcopy(ours)
        for name in ("stem", "a", "b"):
            setattr(formulas, name, Formula(getattr(formulas, name)))
        losses = []
        for model in (ours, formulas):
            model.train()
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
            torch.manual_seed(2)
            history = []
            for _ in range(12):
                x, target = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
                loss = F.cross_entropy(model(x), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                history.append(loss.item())
            losses.append(history)
        for ours_loss, formula_loss in zip(*losses):
            self.assertAlmostEqual(ours_loss, formula_loss, delta=1e-4 * max(1, formula_loss))

    def test_accumulation_and_checkpointing(self):
        from torch.utils.checkpoint import checkpoint

        layer, x = make({"padding": 1}), torch.randn(2, 8, 6, 6)
        layer(x).sum().backward()
        once = layer.W.grad.clone()
        checkpoint(layer, x, use_reentrant=False).sum().backward()
        torch.testing.assert_close(layer.W.grad, 2 * once)

    def test_compile_and_export(self):
        _, model = self.network()
        x = torch.randn(2, 3, 32, 32)
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        self.assertLess(error(y, expected), 1e-6)
        y.sum().backward()
        program = torch.export.export(model, (x,))
        self.assertLess(error(program.module()(x), expected), 1e-6)
        self.assertIn("doconv.do_conv2d", str(program.graph))

    def test_threads(self):
        _, model = self.network()
        inputs = [torch.randn(1, 3, 32, 32) for _ in range(4)]
        with torch.no_grad():
            expected = [model(x) for x in inputs]
        failures = []

        def run(index):
            with torch.no_grad():
                for _ in range(5):
                    if not torch.equal(model(inputs[index]), expected[index]):
                        failures.append(index)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_forked_workers(self):
        # In a process of its own: a fork carries no thread along that compilation may have left.
        done = subprocess.run(
            [sys.executable, "-c", "import test_torch; test_torch.run_workers()"],
            cwd=pathlib.Path(__file__).resolve().parent, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout), (0, "equal\n"), done.stderr)


class Features(torch.utils.data.Dataset):
    """Runs a network in the worker, on one thread as DataLoader sets it."""

    def __init__(self, model, inputs):
        self.model, self.inputs = model, inputs

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        with torch.no_grad():
            return self.model(self.inputs[index])[0]


def run_workers():
    """Forks workers of a process whose threads have run the network, and compares with it."""
    model = dt.convert(Network().eval())
    inputs = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    with torch.no_grad():
        expected = torch.cat([model(x) for x in inputs])
    loader = torch.utils.data.DataLoader(
        Features(model, inputs), batch_size=2, num_workers=2, multiprocessing_context="fork",
        timeout=60,
    )  # fmt: skip
    print("equal" if error(torch.cat(list(loader)), expected) < 1e-5 else "different")


class Varied(nn.Module):
    """What optimize() must take apart: sums both ways, pools, clamps, reuse, what it can't take."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.wide = nn.Conv2d(24, 40, 3, padding="same")
        self.deep = nn.Conv2d(24, 40, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(40, 40, 5, padding=2, groups=40)
        self.shared = nn.Conv2d(40, 40, 1)
        self.odd = nn.Conv2d(40, 40, 3, padding=1, padding_mode="reflect")
        self.after, self.late = nn.Conv2d(80, 16, 1), nn.BatchNorm2d(16)
        self.clamp, self.drop = nn.ReLU6(), nn.Dropout()
        self.layer = dt.DOConv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.stem(x))))
        x = F.relu(self.wide(x) + self.deep(x))
        y = self.clamp(self.depthwise(x))
        y = self.shared(self.shared(y)) + x
        y = y + self.odd(x)
        y = torch.cat((y, x), 1)
        z = self.late(self.after(self.drop(y)))
        z = z + self.layer(z).sigmoid() * 2
        return self.head(z.mean((2, 3))), z


class TestInference(unittest.TestCase):
    def test_optimize(self):
        torch.manual_seed(3)
        model = Varied().eval()
        for norm in (model.norm, model.late):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean, std=0.2)
        names = [n for n, _ in model.named_modules()]
        x = torch.randn(2, 3, 40, 36)
        with torch.no_grad():
            expected = model(x)
        for layout in ("nhwc", "nChw8c", "nChw16c", None):
            fast = dt.optimize(model, x, layout=layout, tune="read")
            for got, wanted in zip(fast(x), expected):
                self.assertLess(error(got, wanted), 1e-5, layout)
            with torch.no_grad():  # other shapes, and an input that is channels last
                other = torch.randn(3, 3, 33, 32).contiguous(memory_format=torch.channels_last)
                for got, wanted in zip(fast(other), model(other)):
                    self.assertLess(error(got, wanted), 1e-5, layout)
            what = {item.name: item.what for item in fast.report}
            self.assertEqual(what["stem"], "conv+relu")
            self.assertEqual(what["deep"], "conv+add+relu")
            self.assertEqual(what["depthwise"], "conv+clamp")
            self.assertEqual(what["odd"], "")
            self.assertIn("odd: stays: padding_mode=reflect", fast.summary())
            self.assertIn("layer", what)
            self.assertFalse(any(isinstance(m, nn.BatchNorm2d) for m in fast.modules()))
            self.assertFalse(fast(x)[0].requires_grad)
        self.assertEqual(len(fast.seconds), 2)  # measured
        self.assertEqual([n for n, _ in model.named_modules()], names)  # as it was

    def test_what_it_refuses(self):
        with self.assertRaisesRegex(ValueError, "layout: 'nchw'"):
            dt.optimize(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), layout="nchw")
        fast = dt.optimize(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), tune="read")
        with self.assertRaisesRegex(TypeError, "float32 on the CPU, not torch.float64"):
            fast(torch.randn(1, 3, 4, 4, dtype=torch.float64))


if __name__ == "__main__":
    unittest.main()
