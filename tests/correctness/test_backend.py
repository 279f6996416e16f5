"""`torch.compile(backend="fusecade")`: the result is eager's, whatever is asked of it, and whatever goes wrong."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from data.broken import break_kernels
from in_parts import in_parts
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn import functional as F

import fusecade
from fusecade import torch_backend
from fusecade.errors import FallbackWarning, InternalCompilerError, InvalidArgument, UnsupportedProgram

REMAINDERS = ["eager", "inductor"]


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v


def qkv(*shape: int, **named) -> list[torch.Tensor]:
    return [torch.randn(*shape, **named) for _ in range(3)]


class Block(nn.Module):
    """A transformer's block: norm, projections, heads, causal mask, residuals."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = self.into(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.second_norm(x))))


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing compiled yet, nothing cached."""
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("fusecade.runtime.operator._TABLE", {})
    torch._dynamo.reset()
    torch_backend.compiled.clear()
    yield
    torch._dynamo.reset()


def compiled(fn, remainder: str = "eager", **options):
    """Everything fuses that can: the sizes here are too small to pay."""
    options = {"fuse": "always", "remainder": remainder, **options}
    dynamic = options.pop("dynamic", None)
    return torch.compile(fn, backend="fusecade", dynamic=dynamic, options=options)


def kernels() -> int:
    return sum(len(built.plan.calls) for built in torch_backend.compiled)


class TestResults:
    @pytest.mark.parametrize("remainder", REMAINDERS)
    def test_a_function(self, remainder: str):
        inputs = qkv(4, 256, 64)
        torch.testing.assert_close(compiled(attend, remainder)(*inputs), attend(*inputs))
        assert kernels() >= 1

    @pytest.mark.parametrize("remainder", REMAINDERS)
    def test_a_module(self, remainder: str):
        block, x = Block().eval(), torch.randn(2, 128, 64)
        with torch.no_grad():
            torch.testing.assert_close(compiled(block, remainder)(x), block(x))

    @pytest.mark.parametrize("remainder", in_parts(REMAINDERS, of=2))
    def test_gradients(self, remainder: str):
        block = Block()
        other = copy.deepcopy(block)
        x, y = torch.randn(2, 64, 64), torch.randn(2, 64, 64)
        for model, run in ((block, compiled(block, remainder)), (other, other)):
            model.x = x.clone().requires_grad_()
            F.mse_loss(run(model.x), y).backward()
        torch.testing.assert_close(block.x.grad, other.x.grad)
        for mine, theirs in zip(block.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)

    @pytest.mark.parametrize("remainder", in_parts(REMAINDERS, 1, of=2))
    def test_training_steps(self, remainder: str):
        block = Block()
        other = copy.deepcopy(block)
        x, y = torch.randn(2, 64, 64), torch.randn(2, 64, 64)
        losses = []
        for model, run in ((block, compiled(block, remainder)), (other, other)):
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                optimiser.zero_grad()
                loss = F.mse_loss(run(x), y)
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        assert losses[:3] == pytest.approx(losses[3:], rel=1e-4)

    @pytest.mark.parametrize("remainder", REMAINDERS)
    def test_one_compilation_for_all_lengths(self, remainder: str):
        run = compiled(attend, remainder, dynamic=True)
        for length in (48, 96, 33, 7, 200):
            inputs = qkv(4, length, 64)
            torch.testing.assert_close(run(*inputs), attend(*inputs))
        assert len(torch_backend.compiled) == 1

    @pytest.mark.parametrize("length", [0, 1])
    def test_sizes_zero_and_one(self, length: int):
        inputs = [torch.randn(4, length, 64), torch.randn(4, 48, 64), torch.randn(4, 48, 64)]
        torch.testing.assert_close(compiled(attend)(*inputs), attend(*inputs))

    @pytest.mark.parametrize("turn", [(-1,), (0,), (0, 1), (2,)], ids=str)
    def test_results_that_are_turned_round(self, turn: tuple[int, ...]):
        inputs = qkv(3, 40, 16)
        for fn in (lambda q, k, v: attend(q, k, v).flip(turn), lambda q, k, v: torch.softmax(q * k + v, -1).flip(turn)):
            torch.testing.assert_close(compiled(fn, fuse="always")(*inputs), fn(*inputs))
        assert kernels() >= 1

    @pytest.mark.parametrize("remainder", REMAINDERS)
    @pytest.mark.parametrize("label", [-3, 30, 1 << 40])
    def test_a_label_out_of_range(self, label: int, remainder: str):
        """It is an error as in PyTorch, also a negative one, which does not count from the end; the next call is none."""
        h, w, t = torch.randn(10, 16), torch.randn(16, 30), torch.randint(30, (10,))

        def loss(h, w, t):
            return F.cross_entropy(h @ w, t, reduction="none")

        run = compiled(loss, remainder, fuse="always")
        for ignored in (-100, 29):
            t[4] = label
            for fn in (loss, run):
                with pytest.raises((IndexError, RuntimeError), match=f"{label} is out of bounds"):
                    fn(h, w, t)
            t[4] = ignored
            torch.testing.assert_close(run(h, w, t), loss(h, w, t))
        assert kernels() >= 1

    def test_a_label_out_of_range_in_many_programs(self):
        x, t = torch.randn(4096, 640), torch.randint(640, (4096,))
        kernel = fusecade.compile(
            lambda x, t: torch.log_softmax(x, -1).gather(1, t[:, None]),
            (x, t),
            target="cpu",
            fuse="always",
            strict=True,
        )
        kernel(x, t)
        t[4000] = 640
        with pytest.raises(IndexError, match="out of range"):
            kernel(x, t)

    @pytest.mark.parametrize("given", [torch.float64, torch.bfloat16], ids=str)
    def test_products_of_weights_in_another_dtype_in_a_new_order(self, given: torch.dtype):
        x, w, v = (torch.randn(s).to(d) for s, d in (((999, 64), torch.float32), ((64, 900), given), ((900, 8), given)))

        def fn(x, w, v):
            return ((x @ w.float()) @ v.float()).relu().sum(-1)

        for fuse in ("always", "by_cost"):
            torch.testing.assert_close(compiled(fn, fuse=fuse)(x, w, v), fn(x, w, v), rtol=1e-3, atol=1e-2)
            assert any(rule == "reassociate" for rule, *_ in torch_backend.compiled[-1].plan.rewrites)

    def test_an_empty_reduction(self):
        inputs = [torch.randn(4, 8, 64), torch.randn(4, 0, 64), torch.randn(4, 0, 64)]
        torch.testing.assert_close(compiled(attend)(*inputs), attend(*inputs), equal_nan=True)

    @pytest.mark.parametrize("remainder", REMAINDERS)
    def test_strides_of_every_kind(self, remainder: str):
        run = compiled(attend, remainder)
        base = torch.randn(256, 4, 64)
        whole = torch.randn(4, 256, 130)
        for inputs in (
            [base.transpose(0, 1)] * 3,
            [whole[..., :64], whole[..., 65:129], whole[..., 1:65]],
            [torch.randn(256, 64).expand(4, 256, 64)] * 3,
            [torch.randn(4, 512, 64)[:, ::2]] * 3,
        ):
            torch.testing.assert_close(run(*inputs), attend(*inputs))

    def test_scalars_and_broadcasts(self):
        def fn(x, scale, bias):
            return (torch.relu(x @ x.mT * scale) + bias).amax(-1)

        inputs = [torch.randn(4, 128, 64), torch.tensor(0.5), torch.randn(128, 1)]
        torch.testing.assert_close(compiled(fn)(*inputs), fn(*inputs))

    def test_outputs_have_eager_strides_and_aliases(self):
        def fn(x, y):
            z = torch.softmax(x @ y, -1)
            return z.transpose(0, 1), z.sum(1), x, x[0]

        inputs = [torch.randn(128, 64), torch.randn(64, 96)]
        for got, wanted in zip(compiled(fn)(*inputs), fn(*inputs), strict=True):
            assert got.stride() == wanted.stride()
            torch.testing.assert_close(got, wanted)

    def test_inputs_that_the_program_changes_are_changed(self):
        def fn(x, y):
            x.mul_(2)
            return torch.softmax(x @ y, -1).sum(-1)

        x, y = torch.randn(64, 64), torch.randn(64, 64)
        mine, theirs = x.clone(), x.clone()
        torch.testing.assert_close(compiled(fn)(mine, y), fn(theirs, y))
        torch.testing.assert_close(mine, theirs)

    def test_dropout_draws_as_eager_does(self):
        def fn(x, y):
            return F.dropout(torch.softmax(x @ y, -1), 0.5).sum(-1)

        x, y = torch.randn(64, 64), torch.randn(64, 64)
        torch.manual_seed(3)
        wanted = fn(x, y)
        torch.manual_seed(3)
        torch.testing.assert_close(compiled(fn)(x, y), wanted)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype):
        block, x = Block().eval(), torch.randn(2, 64, 64)
        with torch.no_grad(), torch.autocast("cpu", dtype):
            got, wanted = compiled(block)(x), block(x)
        exact = copy.deepcopy(block).double()(x.double())
        assert got.dtype == wanted.dtype
        error, eager = ((r.double() - exact).abs().max().item() for r in (got, wanted))
        assert error <= 2 * eager + torch.finfo(dtype).eps * exact.abs().max().item()

    def test_a_graph_that_is_one_kernel_needs_no_other_compiler(self):
        inputs = qkv(4, 64, 64)
        torch.testing.assert_close(compiled(attend, "inductor")(*inputs), attend(*inputs))
        assert torch_backend.compiled[0].remainder == "eager"

    def test_under_the_interpreter_a_gpu_target_runs(self):
        inputs = qkv(2, 32, 32)
        run = compiled(attend, target="sm_90")
        torch.testing.assert_close(run(*inputs), attend(*inputs), atol=1e-5, rtol=1e-5)
        assert [c.artifact.kind for c in torch_backend.compiled[0].plan.calls] == ["triton"]


class TestProcess:
    def test_two_models(self):
        first, second = compiled(attend), compiled(lambda x, c: (x @ c).amax(-1))
        inputs, (x, c, _) = qkv(4, 128, 64), qkv(128, 128)
        for _ in range(2):
            torch.testing.assert_close(first(*inputs), attend(*inputs))
            torch.testing.assert_close(second(x, c), (x @ c).amax(-1))

    def test_threads(self):
        run, wrong = compiled(attend), []
        inputs = [qkv(4, 256, 64) for _ in range(4)]
        run(*inputs[0])

        def work(n: int) -> None:
            for _ in range(5):
                if not torch.allclose(run(*inputs[n]), attend(*inputs[n]), atol=1e-5):
                    wrong.append(n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_a_second_process_plans_nothing(self, tmp_path: Path):
        program = dedent("""
            import torch
            from fusecade.assembly import plan_cache
            from fusecade import torch_backend, driver

            def attend(q, k, v):
                return torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v

            inputs = [torch.randn(4, 256, 64) for _ in range(3)]
            options = {"remainder": "eager", "fuse": "always"}
            out = torch.compile(attend, backend="fusecade", options=options)(*inputs)
            torch.testing.assert_close(out, attend(*inputs))
            store = plan_cache.store_at(driver.Environment.read().cache_dir)
            print(store.hits, store.misses, len(torch_backend.compiled[0].plan.calls))
        """)
        said = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", program], env={**os.environ, "FUSECADE_CACHE_DIR": str(tmp_path / "cache")},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.split())
        assert said[0][:2] == ["0", "1"]
        assert said[1][:2] == ["1", "0"]
        assert said[0][2] == said[1][2] != "0"

    def test_reports_of_what_was_compiled(self):
        compiled(attend)(*qkv(4, 256, 64))
        [report] = fusecade.reports()
        assert report.kernels
        assert "k0" in str(report)


class TestOptions:
    def wrong(self, **named):
        with pytest.raises(BackendCompilerFailed) as caught:
            torch.compile(attend, backend="fusecade", **named)(*qkv(2, 8, 64))
        return caught.value.inner_exception

    def test_unknown_names_are_listed(self):
        error = self.wrong(options={"remainderr": "eager"})
        assert isinstance(error, InvalidArgument)
        assert str(error) == (
            "an option of the backend is 'remainderr', which is not one of: target, remainder, tune, fuse, strict, "
            "print_after_all, skip, lazy, save, parameters, mode, inductor\nnext: use 'remainder' instead"
        )

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"remainder": "tvm"}, "remainder is 'tvm', which is not one of: inductor, eager"),
            ({"tune": "always"}, "tune is 'always', which is not one of: off, quick, full"),
            ({"target": "sm_91"}, "target is 'sm_91', which is not one of: cpu, sm_80"),
        ],
    )
    def test_unknown_values_are_listed(self, options, words):
        error = self.wrong(options=options)
        assert isinstance(error, InvalidArgument)
        assert words in str(error)

    def test_modes_are_those_of_inductor(self):
        with pytest.raises(InvalidArgument, match="mode is 'fastest', which is not one of: default, "):
            torch_backend.backend(torch.fx.symbolic_trace(nn.Identity()), [], mode="fastest")

    def test_a_mode_goes_to_inductor(self):
        def fn(x):
            return torch.cumsum(x, -1) + 1

        x = torch.randn(8, 8)
        run = torch.compile(fn, backend="fusecade", mode="max-autotune-no-cudagraphs")
        torch.testing.assert_close(run(x), fn(x))
        assert torch_backend.compiled[0].remainder == "inductor"

    def test_a_target_that_the_tensors_are_not_on(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        error = self.wrong(options={"target": "sm_90"})
        assert isinstance(error, InvalidArgument)
        assert str(error).splitlines()[0] == "target sm_90 needs tensors on cuda, and these are on cpu"


class TestFailures:
    """What cannot be compiled runs as eager ran, with a reason."""

    def broken_planner(self, monkeypatch: pytest.MonkeyPatch, error: Exception):
        def plan(*_, **__):
            raise error

        monkeypatch.setattr("fusecade.assembly.build.cached_plan", plan)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (UnsupportedProgram("no such thing"), "no such thing"),
            (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
            (RecursionError(), "RecursionError: no message"),
        ],
        ids=["user", "internal", "silent"],
    )
    def test_a_graph_that_cannot_be_planned(self, monkeypatch, error, reason):
        self.broken_planner(monkeypatch, error)
        inputs = qkv(2, 32, 64)
        with pytest.warns(FallbackWarning, match="a graph runs eagerly") as caught:
            torch.testing.assert_close(compiled(attend)(*inputs), attend(*inputs))
        assert [w.category for w in caught].count(FallbackWarning) == 1
        assert fusecade.reports()[0].fallbacks == (("graph", reason),)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (UnsupportedProgram("no such thing"), UnsupportedProgram),
            (ZeroDivisionError("by zero"), InternalCompilerError),
        ],
    )
    def test_strict_raises(self, monkeypatch, error, kind):
        self.broken_planner(monkeypatch, error)
        with pytest.raises(BackendCompilerFailed, match=str(error.args[0])) as caught:
            compiled(attend, strict=True)(*qkv(2, 32, 64))
        assert isinstance(caught.value.inner_exception, kind)

    @pytest.mark.parametrize("remainder", REMAINDERS)
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("def {function}(*arguments):\n    raise ValueError('no such tile')\n", "no such tile"),
            ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ],
        ids=["when it runs", "when it loads"],
    )
    def test_a_kernel_that_fails(self, monkeypatch, source, words, remainder):
        def fn(q, k, v):
            return attend(q, k, v) * 3

        break_kernels(monkeypatch, source)
        inputs = qkv(4, 256, 64)
        run = compiled(fn, remainder)
        with pytest.warns(FallbackWarning, match=words) as caught:
            results = [run(*inputs) for _ in range(2)]
        for result in results:
            torch.testing.assert_close(result, fn(*inputs))
        [message] = [str(w.message) for w in caught if w.category is FallbackWarning]
        assert "test_backend.py" in message
        [(name, reason)] = fusecade.reports()[0].fallbacks
        assert name == "k0"
        assert words in reason

    def test_a_kernel_that_fails_strictly(self, monkeypatch):
        break_kernels(monkeypatch, "def {function}(*arguments):\n    raise ValueError('no such strict tile')\n")
        with pytest.raises(InternalCompilerError, match="no such strict tile"):
            compiled(attend, strict=True)(*qkv(4, 256, 64))

    def test_dynamic_sizes_reach_the_region(self, monkeypatch):
        break_kernels(monkeypatch, "def {function}(*arguments):\n    raise ValueError('no dynamic tile')\n")
        run = compiled(attend, dynamic=True)
        several = [qkv(4, length, 64) for length in (256, 300)]
        with pytest.warns(FallbackWarning, match="no dynamic tile"):
            results = [run(*inputs) for inputs in several]
        for result, inputs in zip(results, several, strict=True):
            torch.testing.assert_close(result, attend(*inputs))

    def test_operators_without_a_cascade_form_run(self):
        def fn(x, y):
            return torch.softmax(torch.cumsum(x, -1) @ y, -1).sum(-1)

        x, y = torch.randn(64, 64), torch.randn(64, 64)
        torch.testing.assert_close(compiled(fn)(x, y), fn(x, y))
        [report] = fusecade.reports()
        assert [operator for operator, _ in report.externs] == ["aten.cumsum.default"]

    def test_a_scan_that_nothing_reads_is_not_left_to_pytorch(self):
        def fn(x):
            p = torch.arange(64)
            packed = (torch.diff(p, prepend=p[:1] - 1) != 1).cumsum(0)
            scores = torch.where(packed[:, None] == packed, x @ x.T, -torch.inf)
            return torch.softmax(scores, -1) @ x

        x = torch.randn(64, 64)
        torch.testing.assert_close(compiled(fn)(x), fn(x))
        [report] = fusecade.reports()
        assert report.externs == ()

    def test_strict_does_not_take_them(self):
        def fn(x):
            return torch.cumsum(x, -1).sum(-1)

        with pytest.raises(BackendCompilerFailed, match=r"aten.cumsum.default is not compiled: it is a scan") as caught:
            compiled(fn, strict=True)(torch.randn(64, 64))
        error = caught.value.inner_exception
        assert isinstance(error, UnsupportedProgram)
        assert error.source is not None
        assert "torch.cumsum" in error.source.code

    def test_constants_of_a_region_are_its_own(self, monkeypatch):
        break_kernels(monkeypatch, "def {function}(*arguments):\n    raise ValueError('no constant tile')\n")
        x, y = torch.randn(64, 32), torch.randn(32, 48)
        for number in (2.0, 3.0):
            weights = [number] * 48

            def fn(x, y, weights=weights):
                return (x @ y * torch.tensor(weights)).amax(-1)

            with pytest.warns(FallbackWarning, match="no constant tile"):
                result = compiled(fn)(x, y)
            torch.testing.assert_close(result, fn(x, y))

    def test_without_a_compiler_inductor_gives_way_once(self, monkeypatch):
        from fusecade.assembly import remainder

        monkeypatch.setattr(remainder, "inductor_problem", lambda: "Inductor has no C++ compiler (Test)")
        monkeypatch.setattr(remainder, "_warned", set())

        x = torch.randn(64, 64)
        runs = [compiled(lambda x, s=scale: torch.cumsum(x, -1) * s, "inductor") for scale in (1.0, 2.0)]
        with pytest.warns(FallbackWarning, match="no C\\+\\+ compiler") as caught:
            results = [run(x) for run in runs]
        torch.testing.assert_close(results, [torch.cumsum(x, -1), torch.cumsum(x, -1) * 2])
        assert [w.category for w in caught].count(FallbackWarning) == 1
        assert [report.fallbacks[0][0] for report in fusecade.reports()] == ["the rest of the graph"] * 2

    def test_inductor_that_fails_gives_way(self, monkeypatch):
        from torch._inductor import compile_fx

        def broken(*_, **__):
            raise RuntimeError("no kernels today")

        monkeypatch.setattr(compile_fx, "compile_fx_inner", broken)
        x = torch.randn(64, 64)
        with pytest.warns(FallbackWarning, match="Inductor failed: RuntimeError: no kernels today"):
            torch.testing.assert_close(compiled(lambda x: torch.cumsum(x, -1), "inductor")(x), torch.cumsum(x, -1))
