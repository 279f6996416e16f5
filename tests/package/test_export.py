"""`fusecade.export` and `fusecade.load`: what comes back computes what was exported, and refuses what was not."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import NamedTuple

import packaged
import pytest
import torch
from torch import nn

import fusecade
from fusecade.assembly.package_choices import Choices
from fusecade.errors import InvalidArgument, InvalidPackage, UnsupportedProgram
from fusecade.runtime.package import archive

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
randn = torch.randn


def mutate(x, y):
    x.add_(y)
    return x.amax(-1)


def closing_over(w):
    return lambda x: torch.softmax(x @ w, dim=-1)


Pair = namedtuple("Pair", "best where")
Unsayable = namedtuple("Unsayable", ["größe"])


class Scored(NamedTuple):
    pair: Pair
    top: torch.return_types.topk  # type: ignore[name-defined]
    scale: float = 2.0


def scored(of: Pair) -> Scored:
    p = torch.softmax(of.best @ of.where, -1)
    return Scored(Pair(*p.max(-1)), p.topk(2))


CASES = {
    "a result of PyTorch": (lambda x: torch.softmax(x, -1).max(-1), lambda: [randn(5, 6)]),
    "one kernel": (packaged.attend, lambda: packaged.qkv(2, 96, 64)),
    "a bit of everything": (packaged.mixed, lambda: [randn(12, 16), randn(16, 24)]),
    "views": (lambda x: (x[:, :3], x.t(), x), lambda: [randn(5, 6)]),
    "parts of a list": (lambda x: sum(t.sum() for t in x.split(2)) + x.unbind(0)[1], lambda: [randn(6, 6)]),
    "a convolution": (lambda x, w: torch.relu(nn.functional.conv2d(x, w)), lambda: [randn(1, 3, 8, 8), randn(4, 3, 3, 3)]),
    "an argument that changes": (mutate, lambda: [randn(5, 6), randn(5, 6)]),
    "weights": (nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU()).eval(), lambda: [randn(5, 8)]),
    "a closure": (closing_over(randn(6, 6).t()), lambda: [randn(4, 6)]),
    "an expanded closure": (closing_over(randn(6, 1).expand(6, 6)), lambda: [randn(4, 6)]),
    "minus infinity": (lambda x: x.masked_fill(x > 0, float("-inf")).softmax(-1), lambda: [randn(6, 6)]),
    "no elements": (lambda x, y: torch.softmax(x @ y, -1).sum(), lambda: [randn(4, 0), randn(0, 5)]),
    "integers": (lambda i, w: w[i].sum(-1), lambda: [torch.tensor([1, 2]), randn(6, 6)]),
    "complex numbers": (lambda x: torch.fft.rfft(x).abs(), lambda: [randn(6, 6)]),
    "a number": (lambda x, t: x * t, lambda: [randn(6, 6), torch.tensor(3.0)]),
    "constants": (lambda x: {"a": [x * 2.0], "b": 3, 4: None}, lambda: [randn(6, 6)]),
}  # fmt: skip


def again(tmp_path: Path, fn, args, **options) -> fusecade.LoadedFunction:
    options = {"fuse": "always"} | options
    return fusecade.load(fusecade.export(fn, args, tmp_path / "package.fcade", **options).path)


def agree(loaded, fn, inputs, **keywords) -> None:
    mine, others = ([x.clone() for x in inputs] for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(*mine, **keywords), fn(*others, **keywords), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine, others)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_function_computes(name: str, tmp_path: Path):
    torch.manual_seed(0)
    fn, make = CASES[name]
    agree(again(tmp_path, fn, make()), fn, make())


GALLERY_CASES = {
    "decode": ("decode", lambda m: [randn(s) for s in m.shapes(2, 512, 32)]),
    "nearest_centre": ("assign", lambda m: [randn(300, 16), randn(70, 16)]),
    "sparse_retrieval_head": ("head", lambda m: m.inputs_of(2, 48, 32, 200, "cpu", torch.float32)),
    "relative_positions": ("attend", lambda m: [randn(s) for s in m.shapes(2, 96, 16)]),
    "dynamic_mask": ("attend", lambda m: [randn(s) for s in m.shapes(2, 320, 16)]),
    "prepacked": ("attend", lambda m: m.inputs_of(2, 320, 16, "cpu", torch.float32)),
    "absorbed_projections": ("attend", lambda m: m.inputs_of(8, 320, 32, "cpu", torch.float32)),
}


QUICK = ("decode", "nearest_centre", "sparse_retrieval_head", "absorbed_projections")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in GALLERY_CASES])
def test_the_gallery(name: str, tmp_path: Path):
    """Kernels of every kind that the printer has pass the check of packaged sources."""
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location(f"packaged_{name}", GALLERY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function, make = GALLERY_CASES[name]
    inputs = make(module)
    loaded = again(tmp_path, getattr(module, function), inputs)
    assert loaded.package.kernels
    agree(loaded, getattr(module, function), inputs)


class TestSizes:
    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, tmp_path_factory) -> fusecade.LoadedFunction:
        dynamic, buckets = {0: {0: "n"}, 1: {0: "m"}}, [{"n": 64, "m": 64}, {"n": 4096, "m": 4096}]
        folder = tmp_path_factory.mktemp("sizes")
        return again(folder, cls.fn, (randn(33, 16), randn(40, 16)), dynamic=dynamic, buckets=buckets)

    @staticmethod
    def fn(q, k):
        if q.shape[0] < 4:
            return q
        return torch.softmax(q @ k.t() / q.shape[0] ** 0.5, -1) @ k

    @pytest.mark.parametrize(("n", "m"), [(33, 40), (64, 64), (65, 2), (5, 5000), (300, 7)])
    def test_any_size(self, loaded, n, m):
        agree(loaded, self.fn, [randn(n, 16), randn(m, 16)])

    def test_a_bucket_is_chosen(self, loaded):
        (place,) = loaded._places.values()
        small, large = (program for _, program in place._programs)
        sizes = loaded.package.signature.sizes
        chosen = [
            place.program([{"n": n, "m": m}[s] for s in sizes]) for n, m in ((64, 64), (65, 2), (2, 65), (9999, 2))
        ]
        assert chosen == [small, large, large, large]

    @pytest.mark.parametrize(
        ("shapes", "words"),
        [
            (((33, 16), (1, 16)), "the dynamic size m of fn is 1, and was compiled for 2 or more"),
            (((3, 16), (9, 16)), "was compiled for sizes with"),
            (((33, 17), (40, 16)), r"argument 0 of fn has shape \[33, 17\], and was compiled for \[n, 16\]"),
        ],
    )
    def test_others_are_refused(self, loaded, shapes, words):
        with pytest.raises(UnsupportedProgram, match=words):
            loaded(*(randn(s) for s in shapes))


class TestCalls:
    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, tmp_path_factory) -> fusecade.LoadedFunction:
        pair, extra = {"a": randn(32, 64), "b": randn(64, 48)}, randn(3)
        return again(tmp_path_factory.mktemp("calls"), cls.fn, (pair,), kwargs={"extra": extra, "scale": 2.0})

    @staticmethod
    def fn(pair, extra, scale=1.0):
        return {"max": (pair["a"] @ pair["b"]).amax(-1) * scale, "same": extra}, scale

    def test_by_keyword_or_position(self, loaded):
        pair, extra = {"b": randn(64, 48), "a": randn(32, 64)}, randn(3)
        right = self.fn(pair, extra, 2.0)
        torch.testing.assert_close(loaded(pair, extra=extra, scale=2.0), right)
        torch.testing.assert_close(loaded(pair, extra, 2.0), right)
        torch.testing.assert_close(loaded(scale=2.0, pair=pair, extra=extra), right)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"scale": 3.0}, "argument scale of fn is 3.0, and was compiled as the constant 2.0"),
            ({"extra": None}, "argument extra of fn is NoneType, and was compiled as a tensor"),
            ({"extra": torch.zeros(3, dtype=torch.float64)}, "is torch.float64, and was compiled for torch.float32"),
            ({"extra": torch.zeros(3, device="meta")}, "is on meta, and has to be on cpu, with the others"),
            (
                {"extra": torch.zeros(3, requires_grad=True)},
                "needs a gradient, and a packaged function is forward only",
            ),
            ({"more": 1}, "is called with others, or in another arrangement"),
        ],
    )
    def test_another_call_is_refused(self, loaded, change, words):
        given = {"extra": randn(3), "scale": 2.0} | change
        with pytest.raises(UnsupportedProgram, match=words):
            loaded({"a": randn(32, 64), "b": randn(64, 48)}, **given)

    def test_other_strides_are_copied(self, tmp_path):
        loaded = again(tmp_path, mutate, (randn(5, 6), randn(5, 6)))
        x, y = randn(6, 5).t(), randn(5, 12)[:, ::2]
        agree_x = x.clone()
        torch.testing.assert_close(loaded(x, y), mutate(agree_x, y))
        torch.testing.assert_close(x, agree_x)


def test_what_shares_memory_is_said_and_kept(tmp_path):
    loaded = again(tmp_path, lambda x: (x.t(), x + 1, x[0]), (randn(5, 6),))
    x = randn(5, 6)
    found = loaded(x)
    assert [r.alias for r in loaded.package.signature.results] == [("argument", 0), None, ("argument", 0)]
    assert found[0].data_ptr() == found[2].data_ptr() == x.data_ptr()


def test_inside_of_torch_compile(small, tmp_path):
    loaded, changes = fusecade.load(small), again(tmp_path, mutate, (randn(5, 6), randn(5, 6)))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def fn(x, w, y):
        (found, last), z = loaded(x + 1, w), x[:5, :6].clone()
        best = changes(z, y)
        return found["best"][0] * 2 + found["same"].sum(), last, best, z

    x, w, y = randn(40, 16), randn(16, 24), randn(5, 6)
    found, last = packaged.mixed(x + 1, w)
    z = x[:5, :6].clone()
    right = found["best"][0] * 2 + found["same"].sum(), last, mutate(z, y), z
    torch.testing.assert_close(fn(x, w, y), right, rtol=1e-4, atol=1e-4)


def test_inside_of_torch_compile_with_dynamic_sizes(small):
    loaded = fusecade.load(small)
    fn = torch.compile(lambda x, w: loaded(x, w)[1] * 2, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (40, 7, 300):
        x, w = randn(n, 16), randn(16, 24)
        torch.testing.assert_close(fn(x, w), packaged.mixed(x, w)[1] * 2, rtol=1e-4, atol=1e-4)


def test_constants_are_checked_inside_of_torch_compile_too(tmp_path):
    loaded, x = again(tmp_path, lambda x, scale: x.softmax(-1) * scale, (randn(6, 6), 2.0)), randn(6, 6)
    fn = torch.compile(lambda x, scale: loaded(x, scale) + 1, backend="aot_eager")
    torch.testing.assert_close(fn(x, 2.0), x.softmax(-1) * 2 + 1)
    with pytest.raises(Exception, match=r"was compiled as the constant 2\.0"):
        fn(x, 3.0)


def test_the_callers_autocast_changes_nothing(small):
    loaded, x, w = fusecade.load(small), randn(40, 16), randn(16, 24)
    right = loaded(x, w)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loaded(x, w), right)


def test_in_threads(small):
    loaded, wrong = fusecade.load(small), []
    torch.manual_seed(0)
    cases = [(randn(n, 16), randn(16, 24)) for n in (5, 40, 100, 300)]
    right = [packaged.mixed(*case)[1] for case in cases]

    def work(n: int) -> None:
        for k in range(20):
            at = (n + k) % len(cases)
            if not torch.allclose(loaded(*cases[at])[1], right[at], atol=1e-5):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class TestNamedTuples:
    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls, tmp_path_factory) -> fusecade.LoadedFunction:
        return again(tmp_path_factory.mktemp("named"), scored, (Pair(randn(8, 16), randn(16, 5)),))

    def test_results_have_their_names(self, loaded):
        given = Pair(randn(8, 16), randn(16, 5))
        found, right = loaded(given), scored(given)
        assert type(found).__name__ == "Scored" and found._fields == right._fields and found.scale == 2.0
        assert isinstance(found.top, torch.return_types.topk) and type(found) is not Scored
        torch.testing.assert_close(tuple(found.pair), tuple(right.pair))
        torch.testing.assert_close(found.top.values, right.top.values)
        assert type(loaded(given)) is type(found)
        assert [x.path for x in loaded.package.signature.leaves] == ["0.best", "0.where"]

    def test_arguments_are_taken_by_their_structure(self, loaded):
        x, w = randn(8, 16), randn(16, 5)
        right = scored(Pair(x, w)).pair.best
        for given in (Pair(x, w), (x, w), namedtuple("Other", "best where")(x, w)):
            torch.testing.assert_close(loaded(given).pair.best, right)
            torch.testing.assert_close(loaded(of=given).pair.best, right)
        for other in (namedtuple("Other", "where best")(w, x), (x, w, w), [x, w], x):
            with pytest.raises(UnsupportedProgram, match="or in another arrangement"):
                loaded(other)

    def test_inside_of_torch_compile(self, loaded):
        fn = torch.compile(lambda of: (loaded(of), loaded(of).top.values + 1), backend="aot_eager", fullgraph=True)
        given = Pair(randn(8, 16), randn(16, 5))
        found, more = fn(given)
        torch.testing.assert_close(found.pair.best, scored(given).pair.best)
        torch.testing.assert_close(more, scored(given).top.values + 1)
        assert type(found.top) is torch.return_types.topk

    @pytest.mark.parametrize(
        "edit",
        [
            lambda form: form["named"].__setitem__(0, "a b"),
            lambda form: form["named"].__setitem__(0, "class"),
            lambda form: form["named"].__setitem__(0, ["Scored"]),
            lambda form: form["named"].__setitem__(1, ["pair", "top", "_scale"]),
            lambda form: form["named"].__setitem__(1, ["pair", "top", "top"]),
            lambda form: form["named"].__setitem__(1, ["pair", "top", "x=print()"]),
            lambda form: form["named"].__setitem__(1, ["pair", "top"]),
            lambda form: form["named"][2][1]["returned"].__setitem__(0, "inspect"),
            lambda form: form["named"][2][1]["returned"].__setitem__(0, "frexp_out_"),
            lambda form: form["named"][2][1]["returned"].__setitem__(0, "linalg_svd"),
        ],
    )
    def test_names_are_checked(self, loaded, edit, tmp_path):
        members = archive.read(Path(loaded.path).read_bytes())
        path = tmp_path / "edited.fcade"
        path.write_bytes(packaged.repacked(members, lambda manifest: edit(manifest["signature"]["result"])))
        with pytest.raises(InvalidPackage, match="is no form of arguments or results"):
            fusecade.load(path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("fn", "make", "words"),
        [
            (lambda x: OrderedDict(a=x + 1), lambda: [randn(5, 6)], "the result of the function has a OrderedDict"),
            (lambda x: Unsayable(x + 1), lambda: [randn(5, 6)], "the result of the function has a namedtuple"),
            (
                nn.BatchNorm1d(6).train(), lambda: [randn(5, 6)],
                "the function changes num_batches_tracked, which belongs to it",
            ),
            (nn.Linear(6, 6, device="meta"), lambda: [randn(4, 6)], "weight, which the function holds, is on the meta device"),
            (lambda x: torch.ops.aten._foreach_add([x], 1)[0], lambda: [randn(4, 6)], "it is not in the table of operators"),
        ],
    )  # fmt: skip
    def test_what_a_package_cannot_hold(self, fn, make, words, tmp_path):
        with pytest.raises(UnsupportedProgram, match=words):
            fusecade.export(fn, make(), tmp_path / "p.fcade")
        assert not (tmp_path / "p.fcade").exists()

    def test_a_large_model_says_what_is_large(self, tmp_path, monkeypatch):
        from fusecade.assembly import package

        monkeypatch.setattr(package, "MOST_CONSTANT_BYTES", 100)
        words = r"up to 0 MiB; the largest is 0.weight, torch.float32 \[16, 8\]"
        with pytest.raises(UnsupportedProgram, match=words):
            fusecade.export(nn.Sequential(nn.Linear(8, 16)), (randn(5, 8),), tmp_path / "p.fcade")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"targets": []}, "a package needs a target"),
            ({"targets": ["sm_91"]}, "target is 'sm_91'"),
            ({"keep": ["sass"]}, "keep is 'sass'"),
            ({"buckets": [{"n": 4}]}, "a size of a bucket is 'n'"),
            ({"dynamic": {0: {0: "n"}}, "buckets": [{"n": 1}]}, "has to be an integer of 2 or more"),
            ({"dynamic": {0: {0: "n"}}, "buckets": [{"n": 9}, {"n": 5}]}, "does not cover the one before it"),
        ],
    )
    def test_options(self, options, words, tmp_path):
        with pytest.raises(InvalidArgument, match=words):
            fusecade.export(lambda x: x + 1, (randn(4, 6),), tmp_path / "p.fcade", **options)

    def test_a_device_that_it_is_not_for(self, several):
        loaded = fusecade.load(several)
        with pytest.raises(InvalidArgument, match="has kernels for cpu, sm_80, sm_90, gfx942, and none for meta"):
            loaded(*(x.to("meta") for x in packaged.qkv(4, 96, 64)))

    def test_the_digest(self, several):
        digest = fusecade.load(several).package.digest
        assert fusecade.load(several, digest=digest)
        with pytest.raises(InvalidPackage, match="was asked for"):
            fusecade.load(several, digest="0" * 64)
        with pytest.raises(InvalidArgument, match="fallback is 'eager'"):
            fusecade.load(several, fallback="eager")


def test_the_packaged_source_is_compiled_on_request(tmp_path):
    """With Triton's interpreter in the place of a GPU: a package without the CPU runs there from its Triton source."""
    path = tmp_path / "p.fcade"
    fusecade.export(packaged.attend, packaged.qkv(1, 32, 16), path, targets=["sm_80"], fuse="always")
    inputs = packaged.qkv(1, 32, 16, seed=3)
    with pytest.raises(InvalidArgument, match="has kernels for sm_80, and none for the CPU"):
        fusecade.load(path)(*inputs)
    loaded = fusecade.load(path, fallback="compile")
    torch.testing.assert_close(loaded(*inputs), packaged.attend(*inputs), rtol=1e-4, atol=1e-5)


ANOTHER = """
import sys
sys.path.insert(0, sys.argv[1])
import fusecade, packaged, torch
torch.manual_seed(9)
options = {"dynamic": {0: {0: "n"}}, "buckets": [{"n": 64}, {"n": 512}], "fuse": "always"}
fusecade.export(packaged.mixed, (torch.randn(40, 16), torch.randn(16, 24)), sys.argv[2], **options)
"""


def test_the_same_again_in_another_process_and_folder(small: Path, tmp_path: Path, monkeypatch):
    """Byte for byte: no path, date, order or value of the arguments gets into a package."""
    other = tmp_path / "elsewhere" / "b.fcade"
    other.parent.mkdir()
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "another-cache"))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    arguments = [sys.executable, "-c", ANOTHER, str(Path(__file__).parent), str(other)]
    subprocess.run(arguments, check=True, cwd=tmp_path, timeout=300)
    assert other.read_bytes() == small.read_bytes()


def test_every_choice_is_an_argument_of_export():
    """And has the same default there: what decides whether a package is built again is what builds it."""
    arguments = inspect.signature(fusecade.export).parameters
    for field in dataclasses.fields(Choices):
        default = {"remainder": None}.get(field.name, field.default)  # it is another one for C
        assert arguments[field.name].default == default
