"""Is this call one of those that were compiled for?  Otherwise: which argument, what is wrong, which line uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree

from ..errors import SourceLine, UnsupportedProgram
from ..frontend.capture import Captured, signature_of
from ..frontend.importer import source_line
from ..runtime.argument_order import ArgumentOrder

LEAST = 2  # a dynamic size is traced as one that is neither 0 nor 1
AGAIN = "compile again for this argument"


class Guards:
    """The checks of one compiled function."""

    def __init__(self, captured: Captured, name: str, fn: Callable[..., Any] | None = None) -> None:
        """fn: the function that was captured, for the names of its parameters."""
        self._name, self._in_spec, self._constants = name, captured.in_spec, captured.constants
        self._paths = argument_names(captured.in_spec)
        placeholders = [n for n in captured.gm.graph.nodes if n.op == "placeholder"]
        self._tensors = [
            (int(key), fake, placeholder)
            for (kind, key), fake, placeholder in zip(captured.inputs, captured.example, placeholders, strict=True)
            if kind == "argument"
        ]
        self._size_names = captured.size_names
        args, kwargs = captured.in_spec.children()
        self._order = (
            ArgumentOrder(signature_of(fn), args.num_children, list(kwargs.context)) if fn is not None else None
        )
        self._plain = kwargs.num_leaves == 0 and all(child.is_leaf() for child in args.children())
        # Most arguments have fixed sizes, and come as they came: looked at first, and fast.
        self._usual = [
            (fake.dtype, tuple(fake.shape), fake.stride(), fake.device.type)
            if not any(isinstance(n, torch.SymInt) for n in [*fake.shape, *fake.stride()])
            else None
            for _, fake, _ in self._tensors
        ]
        self._relations = _relations(captured)

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The tensors among arguments that `check` has accepted, as they are."""
        leaves, _ = self._flatten(args, kwargs)
        return [leaves[position].detach() for position, _, _ in self._tensors]

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The tensors among the arguments, in the strides that were compiled for.  Raises UnsupportedProgram."""
        leaves, fits = self._flatten(args, kwargs)
        if not fits:
            raise UnsupportedProgram(
                f"{self._name} was compiled for the arguments ({', '.join(self._paths)}), and is called with "
                f"{len(leaves)} in another arrangement",
                next_step="pass as many arguments, with the same keywords, as in `fusecade.compile`, or compile again",
            )
        for position, value in self._constants.items():
            if not _equal(leaves[position], value):
                raise UnsupportedProgram(
                    f"argument {self._paths[position]} of {self._name} is {leaves[position]!r}, and was compiled as "
                    f"the constant {value!r}",
                    next_step="pass the value that was compiled, make it a tensor, or " + AGAIN,
                )
        sizes: dict[str, int] = {}
        grad = torch.is_grad_enabled()
        tensors = []
        for (position, fake, node), usual in zip(self._tensors, self._usual, strict=True):
            x = leaves[position]
            if (
                usual is None
                or not isinstance(x, torch.Tensor)
                or (x.dtype, x.shape, x.stride(), x.device.type) != usual
                or (grad and x.requires_grad)
            ):
                x = self._tensor(x, position, fake, node, sizes)
            tensors.append(x)
        if (small := _too_small(sizes)) is not None:
            raise UnsupportedProgram(
                f"the dynamic size {small} of {self._name} is {sizes[small]}, and was compiled for {LEAST} or more",
                next_step="compile apart for this size: PyTorch broadcasts and skips sizes 0 and 1",
            )
        for relation, text in self._relations:
            if not relation(sizes):
                raise UnsupportedProgram(
                    f"{self._name} was compiled for sizes with {text}, and is called with {_listed(sizes)}",
                    next_step="call it with sizes for which that holds, or compile again for these",
                )
        return tensors

    def _flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], bool]:
        """The arguments one by one, and whether they are arranged as those that were compiled."""
        if self._plain and not kwargs and len(args) == len(self._paths):
            return args, True  # nothing is nested, or the check of the tensor will say so
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        if spec != self._in_spec and self._order is not None and (call := self._order.of(args, kwargs)) is not None:
            leaves, spec = pytree.tree_flatten(call)
        return leaves, spec == self._in_spec

    def _tensor(self, x: Any, position: int, fake: torch.Tensor, node: Any, sizes: dict[str, int]) -> torch.Tensor:
        name = f"argument {self._paths[position]} of {self._name}"

        def refuse(what: str, next_step: str) -> UnsupportedProgram:
            return UnsupportedProgram(f"{name} {what}", source=_first_use(node), next_step=next_step)

        if not isinstance(x, torch.Tensor):
            raise refuse(f"is {type(x).__name__}, and was compiled as a tensor", "pass a tensor")
        if x.dtype != fake.dtype:
            raise refuse(
                f"is {x.dtype}, and was compiled for {fake.dtype}", f"convert it: x.to({fake.dtype}); or {AGAIN}"
            )
        if x.dim() != fake.dim() or any(
            not _fits(n, m, sizes, self._size_names) for n, m in zip(x.shape, fake.shape, strict=True)
        ):
            wanted = ", ".join(_size_text(m, self._size_names, sizes) for m in fake.shape)
            raise refuse(
                f"has shape {list(x.shape)}, and was compiled for [{wanted}]",
                f"name the dimensions that change in `dynamic`, or {AGAIN}",
            )
        if x.device.type != fake.device.type:
            raise refuse(
                f"is on {x.device}, and was compiled for {fake.device.type}",
                f"move it to {fake.device.type}, or {AGAIN}",
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise refuse(
                "needs a gradient, and a compiled function is forward only",
                'call it under torch.no_grad(), or use torch.compile(fn, backend="fusecade"), which trains',
            )
        strides = tuple(_value(s, sizes, self._size_names) for s in fake.stride())
        if x.stride() == strides:
            return x
        return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def _first_use(node: Any) -> SourceLine | None:
    """The line of the program that uses an argument first."""
    for user in node.users:
        if (line := source_line(user)) is not None:
            return line
    return None


def _too_small(sizes: Mapping[str, int]) -> str | None:
    return next((name for name, value in sizes.items() if value < LEAST), None)


def _fits(got: int, wanted: int | torch.SymInt, sizes: dict[str, int], names: Mapping[str, str]) -> bool:
    if isinstance(wanted, int):
        return got == wanted
    e = wanted.node.expr
    if isinstance(e, sympy.Symbol):
        return sizes.setdefault(names.get(e.name, e.name), got) == got
    return _value(wanted, sizes, names) == got


def _value(size: int | torch.SymInt, sizes: Mapping[str, int], names: Mapping[str, str]) -> int:
    if isinstance(size, int):
        return size
    e = size.node.expr
    return int(e.subs({s: sizes[names.get(s.name, s.name)] for s in e.free_symbols}))


def _size_text(size: int | torch.SymInt, names: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    if isinstance(size, int):
        return str(size)
    text = str(size.node.expr.subs({s: sympy.Symbol(names.get(s.name, s.name)) for s in size.node.expr.free_symbols}))
    return f"{text} = {sizes[text]}" if text in sizes else text


def _relations(captured: Captured) -> list[tuple[Any, str]]:
    """What tracing found out about dynamic sizes, because the program asked: `n > 16`."""
    symints = [n for x in captured.example for n in [*x.shape, *x.stride()] if isinstance(n, torch.SymInt)]
    if not symints:
        return []
    found = []
    for guard in symints[0].node.shape_env.guards:
        e = guard.expr.subs({s: sympy.Symbol(captured.size_names.get(s.name, s.name)) for s in guard.expr.free_symbols})
        if e.free_symbols and e not in (sympy.true, True):
            found.append((_Relation(e), str(e)))
    return found


class _Relation:
    def __init__(self, e: Any) -> None:
        self._e = e

    def __call__(self, sizes: Mapping[str, int]) -> bool:
        return bool(self._e.subs({s: sizes[s.name] for s in self._e.free_symbols}))


def argument_names(spec: pytree.TreeSpec) -> list[str]:
    """How a person calls each leaf of `(args, kwargs)`: 0, 1.x, mask."""
    leaves = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    named = pytree.tree_flatten_with_path(leaves)[0]
    return ["".join(_step(k) for k in path[1:]).lstrip(".") for path, _ in named]


def _step(key: Any) -> str:
    return next((f".{getattr(key, name)}" for name in ("key", "idx", "name") if hasattr(key, name)), f".{key}")


def _equal(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    try:
        return bool(a == b) or (a != a and b != b)
    except Exception:
        return a is b


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sizes.items())
