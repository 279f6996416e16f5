"""`fusecade.compile`: called like the function, checked like a kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import fusecade
from fusecade.errors import CacheWarning, FallbackWarning, InvalidArgument, UnsupportedProgram


def attend(q, k, v):
    scores = q @ k.transpose(-1, -2) / 8
    return torch.softmax(scores, dim=-1) @ v


def qkv(*shape: int) -> list[torch.Tensor]:
    return [torch.randn(*shape) for _ in range(3)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))


def compiled(*args, **options) -> fusecade.CompiledFunction:
    """Everything fuses that can: the sizes here are too small to pay."""
    return fusecade.compile(*args, fuse="always", **options)


@pytest.fixture
def kernel() -> fusecade.CompiledFunction:
    return compiled(attend, qkv(4, 96, 64), target="cpu")


def test_it_computes(kernel):
    inputs = qkv(4, 96, 64)
    torch.testing.assert_close(kernel(*inputs), attend(*inputs))
    assert len(kernel.report.kernels) == 1


def test_it_looks_like_the_function(kernel):
    assert kernel.__wrapped__ is attend
    assert repr(kernel) == "<fusecade.CompiledFunction attend: 1 kernel calls for cpu>"


def test_other_strides_are_copied_and_compile_nothing(kernel):
    base = torch.randn(96, 4, 64).transpose(0, 1)
    expanded = torch.randn(96, 64).expand(4, 96, 64)
    sliced = torch.randn(4, 192, 64)[:, ::2]
    torch.testing.assert_close(kernel(base, expanded, sliced), attend(base, expanded, sliced))
    assert base.stride() == (64, 256, 1)


def test_compiled_for_strides_it_copies_nothing():
    x, c = torch.randn(64, 128).T, torch.randn(64, 64)
    made = compiled(lambda x, c: (x @ c).amax(-1), (x, c))
    assert made._guards.check((x, c), {})[0] is x
    torch.testing.assert_close(made(x, c), (x @ c).amax(-1))


def test_structured_arguments_and_results():
    def fn(pair, *, extra, scale=2.0):
        a, b = pair["a"], pair["b"]
        return {"max": (a @ b).amax(-1) * scale, "same": extra}, scale

    pair, extra = {"a": torch.randn(32, 64), "b": torch.randn(64, 48)}, torch.randn(3)
    made = compiled(fn, (pair,), {"extra": extra, "scale": 2.0})
    result, scale = made(pair, extra=extra, scale=2.0)
    torch.testing.assert_close(result["max"], fn(pair, extra=extra)[0]["max"])
    assert torch.equal(result["same"], extra)
    assert scale == 2.0


def test_a_module_with_parameters():
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 16)).eval()
    x = torch.randn(8, 64)
    made = compiled(model, (x,), remainder="eager")
    with torch.no_grad():
        torch.testing.assert_close(made(x), model(x))
        model.get_parameter("1.weight").mul_(2)
        torch.testing.assert_close(made(x), model(x))


def test_inductor_takes_what_is_left():
    def fn(x, c):
        return torch.cumsum((x @ c).amax(-1), 0) * 2

    x, c = torch.randn(64, 32), torch.randn(32, 48)
    made = compiled(fn, (x, c), remainder="inductor")
    torch.testing.assert_close(made(x, c), fn(x, c))
    assert made._built.remainder == "inductor"
    assert not made.report.fallbacks


def test_meta_tensors_will_do_for_compiling():
    made = compiled(attend, [x.to("meta") for x in qkv(4, 96, 64)], target="cpu")
    inputs = qkv(4, 96, 64)
    torch.testing.assert_close(made(*inputs), attend(*inputs))


def test_classes_that_are_counted_need_no_values():
    classes = torch.randint(0, 5, (40,))
    fn = lambda x: torch.nn.functional.one_hot(x, 5).sum(0)  # noqa: E731
    assert torch.equal(compiled(fn, (classes,))(classes), fn(classes))


@pytest.mark.parametrize("blocked", ["a file", "a folder of others"])
def test_a_cache_that_cannot_be_used_costs_a_warning(blocked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = tmp_path / "blocked"
    folder.write_text("") if blocked == "a file" else (folder / "plans").mkdir(mode=0o755, parents=True)
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(folder))
    inputs = qkv(4, 96, 64)
    with pytest.warns(CacheWarning) as caught:
        made = [compiled(attend, inputs, target="cpu") for _ in range(2)]
    assert len(caught) == 1
    for one in made:
        assert len(one.report.kernels) == 1
        torch.testing.assert_close(one(*inputs), attend(*inputs))


def test_arguments_that_the_function_changes_are_changed():
    def fn(x, y):
        x += 1
        return (x @ y).amax(-1)

    x, y = torch.randn(32, 64), torch.randn(64, 48)
    mine, theirs = x.clone(), x.clone()
    torch.testing.assert_close(compiled(fn, (x, y))(mine, y), fn(theirs, y))
    torch.testing.assert_close(mine, theirs)


def test_of_other_strides_too():
    def fn(x, y):
        x.add_(y)
        return x @ y

    kernel = fusecade.compile(fn, (torch.zeros(8, 8), torch.zeros(8, 8)), target="cpu")
    x, y = torch.randn(8, 8).T, torch.randn(8, 8)
    wanted = x + y
    torch.testing.assert_close(kernel(x, y), wanted @ y)
    assert torch.equal(x, wanted)


class TestClosures:
    def test_tensors_that_a_function_closes_over(self):
        w, wide = torch.randn(16, 11), torch.randn(11, 5, dtype=torch.float64)
        fn = lambda x, y: torch.softmax(x @ w + y, -1) @ wide.to(x.dtype) + w.sum()  # noqa: E731
        given = [torch.randn(7, 16), torch.randn(7, 11)]
        kernel = compiled(fn, given)
        torch.testing.assert_close(kernel(*given), fn(*given))
        assert kernel.report.kernels and not kernel.report.fallbacks
        w.mul_(2)  # they are not copied
        torch.testing.assert_close(kernel(*given), fn(*given))

    def test_beside_parameters_and_arguments_that_change(self):
        class Counts(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.held = nn.Linear(16, 11), [torch.randn(11, 16)]
                self.register_buffer("seen", torch.zeros(16))

            def forward(self, x):
                y = torch.softmax(self.linear(x), -1) @ self.held[0]
                self.seen += y.sum(0)
                x.add_(1)
                return y

        mine, theirs = Counts(), Counts()
        theirs.load_state_dict(mine.state_dict())
        theirs.held = mine.held
        kernel = compiled(mine, [torch.randn(7, 16)])
        for x in (torch.randn(7, 16), torch.randn(7, 16)):
            other = x.clone()
            with torch.no_grad():
                torch.testing.assert_close(kernel(x), theirs(other))
            torch.testing.assert_close(x, other)
        torch.testing.assert_close(mine.seen, theirs.seen)

    def test_alone(self):
        w = torch.randn(16, 11)
        torch.testing.assert_close(compiled(lambda: torch.softmax(w * 2, -1), [])(), torch.softmax(w * 2, -1))


class TestDynamic:
    NAMES: ClassVar = {0: {1: "n"}, 1: {1: "m"}, 2: {1: "m"}}

    def test_one_kernel_for_all_lengths(self):
        made = compiled(attend, qkv(4, 96, 64), dynamic=self.NAMES)
        for n, m in ((96, 96), (5, 7), (200, 33), (2, 2)):
            inputs = [torch.randn(4, n, 64), torch.randn(4, m, 64), torch.randn(4, m, 64)]
            torch.testing.assert_close(made(*inputs), attend(*inputs))

    def test_sizes_of_one_name_are_equal(self):
        made = compiled(attend, qkv(4, 96, 64), dynamic=self.NAMES)
        with pytest.raises(UnsupportedProgram, match=r"has shape \[4, 8, 64\], and was compiled for \[4, m = 7, 64\]"):
            made(torch.randn(4, 5, 64), torch.randn(4, 7, 64), torch.randn(4, 8, 64))

    @pytest.mark.parametrize("n", [0, 1])
    def test_zero_and_one_are_compiled_apart(self, n: int):
        made = compiled(attend, qkv(4, 96, 64), dynamic=self.NAMES)
        with pytest.raises(
            UnsupportedProgram, match=f"the dynamic size n of attend is {n}, and was compiled for 2 or more"
        ):
            made(torch.randn(4, n, 64), torch.randn(4, 7, 64), torch.randn(4, 7, 64))

    def test_what_the_program_asked_of_sizes_is_asked_again(self):
        def fn(x, y):
            return (x @ y).amax(-1) if x.shape[0] > 16 else (x @ y).amin(-1)

        made = compiled(fn, (torch.randn(32, 64), torch.randn(64, 48)), dynamic={0: {0: "rows"}})
        x, y = torch.randn(20, 64), torch.randn(64, 48)
        torch.testing.assert_close(made(x, y), fn(x, y))
        with pytest.raises(
            UnsupportedProgram, match=r"was compiled for sizes with .*rows.*, and is called with rows = 8"
        ):
            made(x[:8], y)

    def test_a_name_that_names_no_argument(self):
        with pytest.raises(InvalidArgument, match="dynamic names argument"):
            compiled(attend, qkv(4, 96, 64), dynamic={5: {0: "n"}})

    def test_a_dimension_that_is_not_there(self):
        with pytest.raises(InvalidArgument, match="dynamic names dimension 9 of argument 0, which has 3 dimensions"):
            compiled(attend, qkv(4, 96, 64), dynamic={0: {9: "n"}})

    def test_arguments_by_name(self):
        made = compiled(attend, qkv(4, 96, 64), dynamic={"q": {-2: "n"}})
        q, k, v = torch.randn(4, 11, 64), *qkv(4, 96, 64)[1:]
        torch.testing.assert_close(made(q, k, v), attend(q, k, v))


class TestWrongCalls:
    """Each says which argument, what is wrong with it, and where the program uses it."""

    def message(self, kernel, *args, **kwargs) -> str:
        with pytest.raises(UnsupportedProgram) as caught:
            kernel(*args, **kwargs)
        return str(caught.value)

    def test_shape(self, kernel):
        q, k, v = qkv(4, 96, 64)
        text = self.message(kernel, q, k[:2], v).splitlines()
        assert text[0] == "argument 1 of attend has shape [2, 96, 64], and was compiled for [4, 96, 64]"
        assert text[1].endswith(f"test_compile.py:{attend.__code__.co_firstlineno + 1}")
        assert text[2].strip() == "scores = q @ k.transpose(-1, -2) / 8"
        assert text[-1] == "next: name the dimensions that change in `dynamic`, or compile again for this argument"

    def test_rank(self, kernel):
        q, k, v = qkv(4, 96, 64)
        assert "has shape [96, 64], and was compiled for [4, 96, 64]" in self.message(kernel, q[0], k, v)

    def test_dtype(self, kernel):
        q, k, v = qkv(4, 96, 64)
        text = self.message(kernel, q, k, v.half())
        assert text.splitlines()[0] == "argument 2 of attend is torch.float16, and was compiled for torch.float32"
        assert "return torch.softmax(scores, dim=-1) @ v" in text
        assert text.endswith("next: convert it: x.to(torch.float32); or compile again for this argument")

    def test_device(self, kernel, monkeypatch):
        q, k, v = qkv(4, 96, 64)

        class Elsewhere(torch.Tensor):
            device = torch.device("cuda")

        text = self.message(kernel, q.as_subclass(Elsewhere), k, v)
        assert text.splitlines()[0] == "argument 0 of attend is on cuda, and was compiled for cpu"
        assert text.splitlines()[-1] == "next: move it to cpu, or compile again for this argument"

    def test_number(self, kernel):
        text = self.message(kernel, *qkv(4, 96, 64)[:2])
        assert text.splitlines() == [
            "attend was compiled for the arguments (0, 1, 2), and is called with 2 in another arrangement",
            "next: pass as many arguments, with the same keywords, as in `fusecade.compile`, or compile again",
        ]

    def test_keywords(self, kernel):
        q, k, v = qkv(4, 96, 64)
        torch.testing.assert_close(kernel(v=v, q=q, k=k), attend(q, k, v))  # the same call, spelt another way
        assert "in another arrangement" in self.message(kernel, q, k, w=v)
        assert "in another arrangement" in self.message(kernel, q, k, v, k=k)

    def test_keywords_that_were_compiled(self):
        q, k, v = qkv(4, 96, 64)
        made = compiled(attend, (q,), {"v": v, "k": k}, dynamic={"q": {1: "n"}, "k": {1: "m"}, "v": {1: "m"}})
        shorter = q[:, :50], k[:, :7], v[:, :7]
        for result in (made(*shorter), made(shorter[0], k=shorter[1], v=shorter[2])):
            torch.testing.assert_close(result, attend(*shorter))

    def test_a_device_without_memory(self, kernel):
        q, k, v = qkv(4, 96, 64)
        assert "argument 0 of attend is on meta, and was compiled for cpu" in self.message(kernel, q.to("meta"), k, v)
        kernel(q, k, v)
        assert not kernel.report.fallbacks

    def test_no_tensor(self, kernel):
        _, k, v = qkv(4, 96, 64)
        assert "argument 0 of attend is float, and was compiled as a tensor" in self.message(kernel, 1.0, k, v)

    def test_gradients(self, kernel):
        q, k, v = qkv(4, 96, 64)
        text = self.message(kernel, q.requires_grad_(), k, v)
        assert "needs a gradient, and a compiled function is forward only" in text
        with torch.no_grad():
            kernel(q, k, v)

    def test_constants(self):
        def fn(x, y, scale):
            return (x @ y).amax(-1) * scale

        x, y = torch.randn(32, 64), torch.randn(64, 48)
        made = compiled(fn, (x, y, 2.0))
        torch.testing.assert_close(made(x, y, 2.0), fn(x, y, 2.0))
        text = self.message(made, x, y, 3.0)
        assert text.splitlines() == [
            "argument 2 of fn is 3.0, and was compiled as the constant 2.0",
            "next: pass the value that was compiled, make it a tensor, or compile again for this argument",
        ]

    def test_names_of_nested_arguments(self):
        made = compiled(
            lambda p, *, w: (p["x"] @ w[0]).amax(-1), ({"x": torch.randn(8, 64)},), {"w": [torch.randn(64, 48)]}
        )
        assert "argument 0.x of" in self.message(made, {"x": torch.randn(9, 64)}, w=[torch.randn(64, 48)])
        assert "argument w.0 of" in self.message(made, {"x": torch.randn(8, 64)}, w=[torch.randn(64, 47)])


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"target": "sm_91"}, "target is 'sm_91', which is not one of: cpu, sm_80, sm_89, sm_90, sm_100, gfx942"),
            ({"tune": "later"}, "tune is 'later', which is not one of: off, quick, full"),
            (
                {"tune": "quick", "target": "gfx942"},
                "tune='quick' measures, and gfx942 is not in this machine\nnext: leave `tune` at 'off'; `fusecade tune",
            ),
            ({"remainder": "aten"}, "remainder is 'aten', which is not one of: inductor, eager"),
        ],
    )
    def test_the_values_are_listed(self, options, words):
        with pytest.raises(InvalidArgument, match=words):
            compiled(attend, qkv(2, 8, 64), **options)

    def test_a_function_that_cannot_be_traced(self):
        def fn(x):
            return x if x.sum() > 0 else -x

        with pytest.raises(UnsupportedProgram, match="tracing fn failed") as caught:
            compiled(fn, (torch.randn(3),))
        assert caught.value.source is not None
        assert "x.sum() > 0" in caught.value.source.code
        assert "the program branches on a value" in caught.value.message
        assert "fusecade.explain" not in caught.value.next_step

    @pytest.mark.parametrize(
        "fn",
        [
            lambda x: torch.from_numpy(x.numpy() * 2),
            lambda x: torch.as_tensor(np.asarray(x) * 2),
            lambda x: torch.from_dlpack(torch.utils.dlpack.to_dlpack(x + 1)),
            lambda x: torch.from_dlpack(torch.to_dlpack(x + 1)),
            lambda x: x + x.data_ptr() % 2,
        ],
    )
    def test_a_detour_over_memory(self, fn):
        with pytest.raises(UnsupportedProgram, match="reads the values of a tensor") as caught:
            compiled(fn, (torch.randn(3),))
        assert caught.value.source is not None
        assert caught.value.source.file == __file__

    def test_tensors_that_are_not_traced_have_values(self):
        c, x = torch.randn(3), torch.randn(3)
        made = compiled(lambda x: x * torch.from_numpy(c.numpy() * 2), (x,))
        torch.testing.assert_close(made(x), x * c * 2)
        made = compiled(lambda x: x * torch.from_dlpack(torch.utils.dlpack.to_dlpack(c)), (x,))
        torch.testing.assert_close(made(x), x * c)
        assert torch.utils.dlpack.to_dlpack is torch._C._to_dlpack

    def test_what_torch_logs_is_not_repeated(self, caplog):
        with pytest.raises(UnsupportedProgram, match="must have same reduction dim"):
            compiled(lambda x: x @ x, (torch.randn(3, 4),))
        assert not [r for r in caplog.records if r.name.startswith("torch._subclasses")]

    def test_arguments_that_are_no_tuple(self):
        with pytest.raises(InvalidArgument, match=r"args is Tensor, and has to be a tuple of the arguments of attend"):
            compiled(attend, torch.randn(3, 4, 5))

    def test_arguments_that_are_missing(self):
        with pytest.raises(InvalidArgument, match=r"attend\(q, k, v\) cannot be called .* required argument: 'k'"):
            compiled(attend, (torch.randn(3, 4, 5),))

    def test_strict(self):
        with pytest.raises(UnsupportedProgram, match=r"aten.cumsum.default is not compiled: it is a scan"):
            compiled(lambda x: x.cumsum(-1), (torch.randn(3, 3),), strict=True)


def test_a_gpu_kernel_runs_under_the_interpreter():
    inputs = qkv(2, 32, 32)
    made = compiled(attend, inputs, target="sm_90")
    torch.testing.assert_close(made(*inputs), attend(*inputs), atol=1e-5, rtol=1e-5)
    assert made.report.kernels[0].kind == "triton"


def test_a_gpu_kernel_without_a_gpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fusecade.runtime.triton_launch.is_interpreted", lambda kernel: False)
    made = compiled(attend, qkv(2, 32, 32), target="sm_90", strict=True)
    with pytest.raises(InvalidArgument, match="is for sm_90, and its tensors are on the CPU"):
        made(*qkv(2, 32, 32))
    with pytest.warns(FallbackWarning, match="next: compile with tensors on a GPU"):
        compiled(attend, qkv(2, 32, 32), target="sm_90")(*qkv(2, 32, 32))


@pytest.mark.gpu
def test_a_gpu_kernel_runs_on_a_gpu():
    inputs = [x.half().cuda() for x in qkv(4, 128, 64)]
    made = compiled(attend, inputs)
    torch.testing.assert_close(made(*inputs), attend(*inputs), atol=2e-3, rtol=2e-3)


def test_importing_does_not_import_torch():
    program = "import sys, fusecade; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_root_has_what_it_lists():
    assert set(fusecade.__all__) <= set(dir(fusecade))
    for name in fusecade.__all__:
        assert getattr(fusecade, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compilee'"):
        fusecade.compilee  # noqa: B018
