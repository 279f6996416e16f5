"""What people do with models, done with compiled ones: the result is eager's."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch
from programs import Block, attend, compiled, qkv, same_gradients
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import fusecade
from fusecade import torch_backend
from fusecade.runtime import operator

close = torch.testing.assert_close


def kernels() -> int:
    return sum(len(built.plan.calls) for built in torch_backend.compiled)


def test_the_backend_is_listed():
    assert "fusecade" in torch._dynamo.list_backends()


class TestGraphs:
    @pytest.mark.slow
    def test_a_graph_break(self):
        def fn(q, k, v):
            first = attend(q, k, v)
            torch._dynamo.graph_break()
            return attend(first, k, v) + 1

        inputs = qkv(4, 64, 64)
        close(compiled(fn)(*inputs), fn(*inputs))
        assert len(torch_backend.compiled) == 2

    def test_fullgraph(self):
        inputs = qkv(4, 64, 64)
        close(compiled(attend, fullgraph=True)(*inputs), attend(*inputs))

    def test_without_values(self):
        """Meta tensors, and fake ones: PyTorch's operators say what comes out, and no kernel runs."""
        run, inputs = compiled(attend), qkv(4, 64, 64)
        found = run(*[x.to("meta") for x in inputs])
        assert (found.device.type, found.shape) == ("meta", inputs[0].shape)
        with FakeTensorMode() as mode:
            found = run(*map(mode.from_tensor, inputs))
        assert isinstance(found, FakeTensor)
        assert found.shape == inputs[0].shape
        close(run(*inputs), attend(*inputs))

    def test_dynamo_explains_a_compiled_function(self):
        found = torch._dynamo.explain(compiled(attend))(*qkv(4, 64, 64))
        assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.slow
class TestCopies:
    def test_deepcopy_of_a_compiled_module(self):
        model, x = compiled(Block()), torch.randn(2, 32, 32)
        before = model(x)
        other = copy.deepcopy(model)
        close(other(x), before)
        with torch.no_grad():
            other.norm.weight.mul_(2)
        close(model(x), before)
        close(other(x), copy.deepcopy(other._orig_mod)(x))

    def test_pickles(self):
        model, x = Block(), torch.randn(2, 32, 32)
        run = compiled(model)
        wanted = run(x)
        close(pickle.loads(pickle.dumps(model))(x), wanted)
        close(pickle.loads(pickle.dumps(run))(x), wanted)
        file = io.BytesIO()
        torch.save(run.state_dict(), file)
        assert file.tell()

    def test_a_module_compiled_in_place(self):
        model, x = Block(), torch.randn(2, 32, 32)
        wanted = model(x)
        model.compile(backend="fusecade", options={"fuse": "always", "remainder": "eager"})
        close(model(x), wanted)
        assert kernels()
        close(copy.deepcopy(model)(x), wanted)
        close(pickle.loads(pickle.dumps(model))(x), wanted)


class TestModes:
    @pytest.mark.slow
    def test_one_model_with_and_without_gradients(self):
        model, x = Block(), torch.randn(2, 32, 32)
        run = compiled(model)
        with torch.no_grad():
            close(run(x), model(x))
        with torch.inference_mode():
            close(run(x), model(x))
            made_here = torch.randn(2, 32, 32)
            close(run(made_here), model(made_here))
        run(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_an_output_used_twice(self):
        model, x = Block(), torch.randn(2, 32, 32)
        other = copy.deepcopy(model)
        for run in (compiled(model), other):
            y = run(x)
            (y.sum() + (y * y).sum()).backward()
        same_gradients(model, other)

    def test_a_second_backward_is_refused_as_by_inductor(self):
        inputs = qkv(2, 32, 64)
        inputs[0].requires_grad_()
        (gradient,) = torch.autograd.grad(compiled(attend)(*inputs).square().sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="does not currently support double backward"):
            gradient.sum().backward()

    @pytest.mark.slow
    def test_compiled_autograd(self):
        model, x = Block(), torch.randn(2, 32, 32)
        other = copy.deepcopy(model)
        with torch._dynamo.config.patch(compiled_autograd=True):
            compiled(model)(x).sum().backward()
        other(x).sum().backward()
        same_gradients(model, other)

    @pytest.mark.slow
    def test_hooks(self):
        model, x, seen = Block(), torch.randn(2, 32, 32), []
        other = copy.deepcopy(model)
        for one in (model, other):
            one.up.register_forward_hook(lambda module, given, out: out * 2)
            one.up.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
            one.up.weight.register_hook(lambda gradient: gradient * 3)
            one.register_forward_hook(lambda module, given, out: seen.append(out.shape))
        for run in (compiled(model), other):
            run(x).sum().backward()
        same_gradients(model, other)
        assert len(seen) == 2


class TestParameters:
    def test_changed_between_calls(self):
        model, x = Block(), torch.randn(2, 32, 32)
        run = compiled(model)
        run(x)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        close(run(x), model(x))
        model.up.weight = nn.Parameter(torch.randn_like(model.up.weight))
        close(run(x), model(x))

    @pytest.mark.slow
    def test_tied(self):
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.block = nn.Embedding(50, 32), Block()
                self.head = nn.Linear(32, 50, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, ids):
                return torch.log_softmax(self.head(self.block(self.embed(ids))), -1)

        model, ids = Tied(), torch.randint(0, 50, (2, 32))
        other = copy.deepcopy(model)
        compiled(model)(ids).mean().backward()
        other(ids).mean().backward()
        same_gradients(model, other)
        assert model.head.weight is model.embed.weight

    @pytest.mark.parametrize("remainder", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
    @pytest.mark.parametrize(
        "kind",
        [
            "AdamW",
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("SGD", "RMSprop", "Adagrad", "NAdam", "Adadelta")),
        ],
    )
    def test_an_optimiser_compiled(self, kind: str, remainder: str):
        model = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))
        other, x = copy.deepcopy(model), torch.randn(8, 16)
        named = {"momentum": 0.9} if kind == "SGD" else {}
        mine, theirs = (getattr(torch.optim, kind)(m.parameters(), lr=1e-2, **named) for m in (model, other))
        step = torch.compile(mine.step, backend="fusecade", options={"remainder": remainder})
        for _ in range(3):
            for one, take in ((model, step), (other, theirs.step)):
                one.zero_grad()
                one(x).square().sum().backward()
                take()
        close(list(model.parameters()), list(other.parameters()))

    def test_of_a_model_that_is_gone_are_freed(self):
        model, x = Block(), torch.randn(2, 32, 32)
        run = compiled(model)
        run(x).sum().backward()
        held = [weakref.ref(model), *map(weakref.ref, model.parameters())]
        held += [weakref.ref(p.grad) for p in model.parameters()]
        del run, model
        gc.collect()
        assert [one() for one in held] == [None] * len(held)


class TestTransforms:
    def test_maps_inside_and_outside(self):
        inputs = qkv(2, 32, 64)
        close(compiled(torch.vmap(attend))(*inputs), attend(*inputs))
        close(torch.vmap(compiled(attend))(*inputs), attend(*inputs))

    @pytest.mark.slow
    def test_derivatives_inside_and_outside(self):
        inputs, tangents = qkv(2, 32, 64), qkv(2, 32, 64)

        def loss(q, k, v):
            return attend(q, k, v).square().sum()

        wanted = torch.func.grad(loss)(*inputs)
        close(compiled(torch.func.grad(loss))(*inputs), wanted, atol=1e-4, rtol=1e-4)
        close(torch.func.grad(compiled(loss))(*inputs), wanted, atol=1e-4, rtol=1e-4)

        def forward_mode(fn):
            return lambda x, t: torch.func.jvp(fn, tuple(x), tuple(t))

        wanted = forward_mode(attend)(inputs, tangents)
        close(compiled(forward_mode(attend))(inputs, tangents), wanted, atol=1e-4, rtol=1e-4)
        close(forward_mode(compiled(attend))(inputs, tangents), wanted, atol=1e-4, rtol=1e-4)


class TestExportedPrograms:
    @pytest.fixture
    def program(self):
        block = Block().eval()
        return block, torch.export.export(block, (torch.randn(2, 32, 32),)), torch.randn(2, 32, 32)

    def test_by_torch_compile(self, program):
        block, exported, x = program
        close(compiled(exported.module())(x), block(x))
        assert kernels()

    def test_by_fusecade_compile(self, program):
        block, exported, x = program
        for args in ((x,), ()):  # it brings its own example
            run = fusecade.compile(exported, args, fuse="always", remainder="eager")
            close(run(x), block(x))
        assert run.kernels

    def test_explained(self, program):
        _, exported, _ = program
        assert fusecade.explain(exported, target="cpu", fuse="always").kernels

    def test_state_that_changes(self):
        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(8)

            def forward(self, x):
                return torch.softmax(self.norm(x), -1).sum(-1)

        model, x = Counting(), torch.randn(16, 8)
        exported = torch.export.export(copy.deepcopy(model), (x,))
        run = fusecade.compile(exported, remainder="eager")
        for _ in range(2):
            close(run(x), model(x))


class TestThreads:
    def together(self, work, count: int = 4) -> None:
        failed: list[BaseException] = []

        def guarded(n: int) -> None:
            try:
                work(n)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def test_compile_and_run_at_once(self):
        def work(n: int) -> None:
            def fn(q, k, v):
                return attend(q, k, v) * n

            inputs = qkv(4, 48 + 16 * n, 64)
            if n % 2:
                run = compiled(fn)
            else:
                run = fusecade.compile(fn, inputs, fuse="always", remainder="eager")
            for _ in range(3):
                close(run(*inputs), fn(*inputs))

        self.together(work)

    @pytest.mark.slow
    def test_train_at_once(self):
        def work(n: int) -> None:
            model, x = Block(), torch.randn(2, 16 * (n + 1), 32)
            other = copy.deepcopy(model)
            for run in (compiled(model), other):
                run(x).sum().backward()
            same_gradients(model, other)

        self.together(work, 2)


class TestMemory:
    @pytest.mark.parametrize("remainder", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
    def test_kernels_of_graphs_that_are_gone_are_forgotten(self, remainder: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(operator, "_TABLE", weakref.WeakValueDictionary())
        run = compiled(lambda q, k, v: attend(q, k, v).cumsum(-1), remainder)
        inputs = qkv(4, 64, 64)
        run(*inputs)
        assert len(operator._TABLE)
        torch_backend.compiled.clear()
        gc.collect()
        close(run(*inputs), attend(*inputs).cumsum(-1))  # what runs holds its kernels
        del run
        torch._dynamo.reset()
        gc.collect()
        assert not len(operator._TABLE)


def test_a_subclass_of_tensors_falls_back_where_it_must():
    class Tagged(torch.Tensor):
        pass

    inputs = [x.as_subclass(Tagged) for x in qkv(4, 64, 64)]
    found = compiled(attend)(*inputs)
    assert type(found) is Tagged
    close(found.as_subclass(torch.Tensor), attend(*(x.as_subclass(torch.Tensor) for x in inputs)))
