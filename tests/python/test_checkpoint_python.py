# SPDX-License-Identifier: MIT
"""Folding of checkpoints by the package: files, what torch.save() writes, networks' state_dicts."""
import collections
import json
import os
import pathlib
import tempfile
import unittest

import numpy as np

# Never the user's cache.
os.environ.setdefault("DOCONV_CACHE", tempfile.mkdtemp(prefix="doconv-test-"))

import doconv  # noqa: E402

try:
    import torch
    from torch import nn

    import doconv.torch as dt
except ImportError:
    torch = nn = None

RANDOM = np.random.default_rng(3)
NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64"}


def random(*shape):
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


def save(path, **arrays):
    """A safetensors file; '__' in a name stands for a dot."""
    header, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name.replace("__", ".")] = {
            "dtype": NAMES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def load(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {name: dtype for dtype, name in NAMES.items()}
    return {
        name: np.frombuffer(
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
            types[entry["dtype"]],
        ).reshape(entry["shape"])
        for name, entry in json.loads(data[8:start]).items()
    }


def layer(cout, cin, taps):
    """Tensors as the official module keeps them."""
    return random(cout, cin, taps), random(cin, taps, taps), random(cin, taps, taps)


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.path = self.folder / "in.safetensors"
        self.out = self.folder / "out.safetensors"


class FoldFile(Folder):
    def test_values_and_report(self):
        w, d, identity = layer(4, 3, 9)
        save(self.path, a__W=w, a__D=d, a__d_diag=identity, moe__W=random(2, 3, 4), b=random(3))
        report = doconv.fold_file(self.path, self.out)
        folded = load(self.out)
        expected = np.einsum("ims,ois->oim", d + identity, w).reshape(4, 3, 3, 3)
        np.testing.assert_allclose(folded["a.weight"], expected, rtol=1e-5, atol=1e-6)
        self.assertEqual(set(folded), {"a.weight", "moe.W", "b"})
        self.assertEqual(
            report.layers,
            (doconv.FoldedLayer("a", "a.weight", (4, 3, 3, 3), "F32", 1, 9, True, True, True),),
        )
        self.assertIn("it has no D", report.left_alone["moe.W"])

    def test_options(self):
        w, d, _ = layer(2, 1, 7)
        save(self.path, module__a__W=w.astype(np.float16), module__a__D=d)
        with self.assertRaisesRegex(doconv.InvalidArgument, "taps are no square"):
            doconv.fold_file(self.path)
        kernels = {"*.a": (1, 7)}
        with self.assertRaisesRegex(doconv.InvalidArgument, "no d_diag is stored"):
            doconv.fold_file(self.path, kernels=kernels)
        doconv.fold_file(
            self.path, self.out, kernels=kernels, identity="none", dtype="f64", strip_prefix=True,
            rename="{name}.W",
        )  # fmt: skip
        folded = load(self.out)["a.W"]
        self.assertEqual((folded.dtype, folded.shape), (np.float64, (2, 1, 1, 7)))
        with self.assertRaises(doconv.NotFound):
            doconv.fold_file(self.path, exclude="*")
        for wrong in ({"identity": "yes"}, {"dtype": "F16"}, {"mapping": "x"}, {"rename": "a"}):
            with self.assertRaises(ValueError, msg=wrong):
                doconv.fold_file(self.path, **wrong)

    def test_one_by_one_layer_is_named(self):
        save(self.path, a__W=random(3, 2, 1))
        with self.assertRaisesRegex(doconv.NotFound, "no DO-Conv layer"):
            doconv.fold_file(self.path)
        doconv.fold_file(self.path, self.out, only="a")
        self.assertEqual(load(self.out)["a.weight"].shape, (3, 2, 1, 1))

    def test_groups_trained_here_ask_for_their_mapping(self):
        w, d = random(32, 4, 9), random(16, 9, 9)
        save(self.path, a__W=w, a__D=d)
        with self.assertRaisesRegex(doconv.InvalidArgument, "4 groups, and no d_diag"):
            doconv.fold_file(self.path, identity="add")
        for mapping in ("paper", "pytorch", "tensorflow"):
            doconv.fold_file(self.path, self.out, identity="add", mapping=mapping)
            expected = doconv.fold(w, d, groups=4, mapping=mapping, identity=True)
            np.testing.assert_array_equal(load(self.out)["a.weight"], expected)

    def test_shards(self):
        w, d, identity = layer(2, 2, 4)
        save(self.folder / "1.st", a__W=w)
        save(self.folder / "2.st", a__D=d, a__d_diag=identity)
        index = self.folder / "model.safetensors.index.json"
        names = {"a.W": "1.st", "a.D": "2.st", "a.d_diag": "2.st"}
        index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        doconv.fold_file(index, self.out)
        self.assertEqual(load(self.out)["a.weight"].shape, (2, 2, 2, 2))
        with self.assertRaisesRegex(ValueError, "one of the shards"):
            doconv.fold_file(index, self.folder / "2.st")
        (self.folder / "2.st").unlink()
        with self.assertRaisesRegex(doconv.InvalidFile, "shard 2.st"):
            doconv.fold_file(index, self.out)

    def test_files(self):
        with self.assertRaises(FileNotFoundError):
            doconv.fold_file(self.folder / "absent")
        self.path.write_bytes(b"")
        with self.assertRaises(doconv.InvalidFile):
            doconv.fold_file(self.path, self.out)
        save(self.path, a__W=random(1, 1, 4))
        with self.assertRaisesRegex(ValueError, "is the input"):
            doconv.fold_file(self.path, self.path)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["in.safetensors"])


class Official(nn.Module if nn else object):
    """The tensors and the formula of the official module, in PyTorch's operators."""

    def __init__(self, cin, cout, kernel, groups=1, padding=0):
        super().__init__()
        self.kernel_size = kernel
        self.groups, self.padding = groups, padding
        taps = kernel[0] * kernel[1]
        self.W = nn.Parameter(torch.randn(cout, cin // groups, taps) / (taps * cin) ** 0.5)
        if taps > 1:
            self.D = nn.Parameter(torch.randn(cin, taps, taps) / 10)
            self.d_diag = nn.Parameter(torch.eye(taps).repeat(cin, 1, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(cout))

    def weight(self):
        cout, cin, taps = self.W.shape
        if taps == 1:
            return self.W.reshape(cout, cin, 1, 1)
        d = self.D + self.d_diag
        # all weights in one row, cut by the channels of D: what the module's reshape does
        rows = self.W.reshape(cout // self.groups, d.shape[0], taps)
        return torch.einsum("ims,ois->oim", d, rows).reshape(cout, cin, *self.kernel_size)

    def forward(self, x):
        return nn.functional.conv2d(
            x, self.weight(), self.bias, padding=self.padding, groups=self.groups
        )


def network(make):
    """A U-Net's kinds of layers: make(cin, cout, kernel, groups, padding)."""
    return nn.Sequential(
        collections.OrderedDict(
            square=make(3, 8, (3, 3), 1, 1), h17=make(8, 8, (1, 7), 1, (0, 3)),
            norm=nn.BatchNorm2d(8), row=make(8, 8, (1, 9), 1, (0, 4)),
            grouped=make(8, 16, (3, 3), 4, 1), depthwise=make(16, 32, (3, 3), 16, 1),
            point=make(32, 8, (1, 1), 1, 0), point_groups=make(8, 8, (1, 1), 4, 0),
        )
    )  # fmt: skip


def plain(cin, cout, kernel, groups, padding):
    return nn.Conv2d(cin, cout, kernel, groups=groups, padding=padding)


@unittest.skipIf(torch is None, "there is no PyTorch")
class FoldStateDict(Folder):
    def setUp(self):
        super().setUp()
        torch.manual_seed(5)
        self.trained = network(Official).eval()
        self.target = network(plain).eval()
        self.x = torch.randn(2, 3, 9, 11)

    def check_target(self, state_dict, tolerance=1e-5, dtype=torch.float32):
        self.target.to(dtype).load_state_dict(state_dict)
        with torch.no_grad():
            expected = self.trained.float()(self.x)
            seen = self.target.float()(self.x)
        error = float((seen - expected).abs().max() / expected.abs().max())
        self.assertLess(error, tolerance)

    def test_sizes_from_either_model(self):
        for model in (self.trained, self.target):
            self.check_target(dt.fold_state_dict(self.trained.state_dict(), model))

    def test_this_package_s_modules(self):
        layers = network(lambda i, o, k, g, p: dt.DOConv2d(i, o, k, None, groups=g, padding=p))
        layers.eval()
        self.target.load_state_dict(dt.fold_state_dict(layers.state_dict(), layers))
        with torch.no_grad():
            torch.testing.assert_close(self.target(self.x), layers(self.x), rtol=1e-4, atol=1e-5)

    def test_options_in_the_place_of_a_model(self):
        folded = dt.fold_state_dict(
            self.trained.state_dict(), only="*", kernels={"h17": (1, 7), "row": (1, 9)}
        )
        self.check_target(folded)

    def test_types(self):
        tolerances = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float64: 1e-5}
        for dtype, tolerance in tolerances.items():
            state_dict = self.trained.to(dtype).state_dict()
            folded = dt.fold_state_dict(state_dict, self.target)
            self.assertEqual(folded["square.weight"].dtype, dtype)
            self.check_target(folded, tolerance, dtype)
            self.trained.float()
        folded = dt.fold_state_dict(self.trained.state_dict(), self.target, dtype="bf16")
        self.assertEqual(folded["square.weight"].dtype, torch.bfloat16)

    def test_wrappers_prefixes(self):
        for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
            state_dict = {prefix + k: v for k, v in self.trained.state_dict().items()}
            self.check_target(dt.fold_state_dict(state_dict, self.target))
            self.assertIn(
                prefix + "square.weight",
                dt.fold_state_dict(state_dict, self.target, strip_prefix=False),
            )

    def test_what_is_no_layer_stays(self):
        state_dict = dict(self.trained.state_dict())
        extra = {
            "moe.W": torch.randn(8, 16, 1), "exp_avg.square.W": torch.randn(8, 3, 9),
            "exp_avg.square.D": torch.randn(3, 9, 9), "steps": 7,
        }  # fmt: skip
        folded = dt.fold_state_dict({**state_dict, **extra}, self.target)
        for name, value in extra.items():
            seen = folded.pop(name)
            self.assertTrue(seen == 7 if name == "steps" else torch.equal(seen, value))
        self.check_target(folded)

    def test_normalized_weights_say_what_to_do(self):
        nn.utils.parametrizations.weight_norm(self.trained.square, "W")
        with self.assertRaisesRegex(doconv.InvalidFile, "parametrizations.W.original0.*remove"):
            dt.fold_state_dict(self.trained.state_dict(), only="*")

    def test_saved_by_torch(self):
        path = self.folder / "in.pth"
        state_dict = self.trained.state_dict()
        out = self.folder / "out.pth"
        for saved in (state_dict, {"state_dict": state_dict, "epoch": 3}, {"model": state_dict}):
            for legacy in (False, True):
                torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
                doconv.fold_file(path, out, model=self.target)
                self.check_target(torch.load(out, weights_only=True))
                report = doconv.fold_file(path, self.out, model=self.trained)
                self.assertEqual(len(report.layers), 7)
                self.assertEqual(load(self.out)["row.weight"].shape, (8, 8, 1, 9))
        torch.save({"epoch": 3}, path)
        with self.assertRaisesRegex(doconv.InvalidFile, "no state_dict"):
            doconv.fold_file(path, out)
        torch.save(self.trained, path)
        with self.assertRaisesRegex(doconv.InvalidFile, "weights_only"):
            doconv.fold_file(path, out)

    def test_safetensors_reads_the_result(self):
        try:
            from safetensors.torch import load_file, save_file
        except ImportError:
            self.skipTest("there is no safetensors")
        save_file(self.trained.state_dict(), self.path)
        doconv.fold_file(self.path, self.out, model=self.target)
        self.check_target(load_file(self.out))


if __name__ == "__main__":
    unittest.main()
