"""The text of a kernel for the CPU, checked before it is run: only what the printer of this project writes.

    function = load_function(text, "attend_programs", path)

Such a kernel is Python, and a package is data of somebody else.  So the text is parsed, and every node of it has to be in
the table below: assignments, loops over ranges, arithmetic, and calls of listed functions of torch and listed methods of
tensors.  It has no attribute that is not listed, no name that it does not define, no import but `math` and `torch`, no
strings but those listed, no `while`, no class, no lambda.  What passes can compute with the tensors that it is given, and
take time and memory; it reaches no file, no other module, and no object of the interpreter.

Triton's source, which is only compiled on request (`fallback="compile"`), is checked by the same rules with other names.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import InvalidPackage

LONGEST = 1 << 20  # characters of a kernel

_DTYPES = "float16 bfloat16 float32 float64 bool int8 int16 int32 int64 uint8"
_TORCH = (
    "abs add addmm all amax amin any arange argmax argmin as_tensor baddbmm bitwise_and bitwise_or bitwise_xor bmm ceil "
    "clamp cos div empty eq erf exp exp2 expm1 floor fmod ge gt le log log1p log2 lt maximum minimum mm mul ne neg "
    "no_grad ones pow prod round rsqrt sin sqrt sub sum tanh tensor threshold_ trunc where zeros"
)
_TORCH_METHODS = (
    "add_ as_strided clamp copy_ dim dtype expand fill_ flip index_select is_contiguous narrow new_zeros numel permute "
    "reshape shape storage_offset stride t to unsqueeze view amax amin append start stop"
)
_BUILTINS = "bool float int list max min range sum tuple zip"
_STRINGS = ("-inf", "inf", "nan", "floor", "trunc")

_TL = (
    "PropagateNan abs arange bfloat16 broadcast_to cast cdiv ceil constexpr cos cumsum dot erf exp exp2 expand_dims float16 "
    "float32 float64 floor full gather int1 int8 int16 int32 int64 uint8 load log log2 make_tensor_descriptor max maximum "
    "min minimum num_programs permute program_id range reduce reshape rsqrt sin sqrt_rn store sum trans where zeros zeros_like"
)
_TL_METHODS = "ALL dtype load store to"
_TL_STRINGS = ("-inf", "inf", "nan", "ieee", "tf32", "tf32x3")

_STATEMENTS = (ast.Assign, ast.AugAssign, ast.For, ast.If, ast.Pass, ast.Return, ast.Expr)
_EXPRESSIONS = (
    ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Call, ast.keyword, ast.Attribute, ast.Subscript,
    ast.Slice, ast.Tuple, ast.List, ast.Starred, ast.Name, ast.Constant, ast.GeneratorExp, ast.ListComp, ast.comprehension,
)  # fmt: skip
_OPERATORS = (
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.BitXor, ast.And, ast.Or, ast.Not,
    ast.USub, ast.Invert, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.Is, ast.IsNot, ast.Load, ast.Store,
)  # fmt: skip


@dataclass(frozen=True)
class Language:
    """What a text may say.  modules: its names for them, and of each the attributes that may be used; methods: attributes
    of everything else; strings: the texts; imports: the import statements that it may have."""

    modules: dict[str, frozenset[str]]
    methods: frozenset[str]
    strings: tuple[str, ...]
    imports: frozenset[str]
    decorators: frozenset[str]
    builtins: frozenset[str]


TORCH = Language(
    modules={"torch": frozenset(f"{_TORCH} {_DTYPES}".split()), "math": frozenset({"prod"})},
    methods=frozenset(_TORCH_METHODS.split()),
    strings=_STRINGS,
    imports=frozenset({"import math", "import torch"}),
    decorators=frozenset({"torch.no_grad()"}),
    builtins=frozenset(_BUILTINS.split()),
)
TRITON = Language(
    modules={"triton": frozenset({"jit"}), "tl": frozenset(_TL.split())},
    methods=frozenset(_TL_METHODS.split()),
    strings=_TL_STRINGS,
    imports=frozenset({"import triton", "import triton.language as tl"}),
    decorators=frozenset({"triton.jit"}),
    builtins=frozenset({"float", "int", "range", "min", "max"}),
)


def load_function(text: str, name: str, path: str) -> Callable[..., Any]:
    """The function `name` of a checked text; path: what tracebacks call it.  Raises InvalidPackage."""
    tree = check(text, TORCH, path)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]  # the modules are handed in
    # `__import__` is there for torch, which imports by way of whoever calls it; the text cannot name it.
    allowed = {b: getattr(builtins, b) for b in (*TORCH.builtins, "__import__")}
    space: dict[str, Any] = {"__builtins__": allowed, "torch": torch, "math": math, "__name__": "fusecade_package"}
    try:
        exec(compile(tree, path, "exec"), space)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidPackage(f"{path} does not load: {type(error).__name__}: {str(error)[:200]}") from error
    function = space.get(name)
    if not callable(function) or name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        raise InvalidPackage(f"{path} has no function {name[:80]!r}")
    return function


def check(text: str, language: Language, path: str) -> ast.Module:
    """The text, parsed.  Raises InvalidPackage with the line that has something else than a kernel may have."""
    if len(text) > LONGEST:
        raise InvalidPackage(f"{path} has {len(text)} characters, and a kernel has at most {LONGEST}")
    try:
        tree = ast.parse(text, path)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidPackage(f"{path} is no Python text: {str(error)[:200]}") from error
    try:
        _Check(language, path).module(tree)
    except RecursionError as error:
        raise InvalidPackage(f"{path} is nested too deep") from error
    return tree


class _Check:
    def __init__(self, language: Language, path: str) -> None:
        self.language, self.path = language, path
        self.functions: set[str] = set()

    def refuse(self, node: ast.AST, what: str) -> InvalidPackage:
        line = getattr(node, "lineno", 0)
        return InvalidPackage(f"{self.path}:{line}: {what}, which no kernel of this project has")

    def module(self, tree: ast.Module) -> None:
        for n, node in enumerate(tree.body):
            if isinstance(node, ast.Expr) and n == 0 and _is_text(node.value):
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                if ast.unparse(node) not in self.language.imports:
                    raise self.refuse(node, f"`{ast.unparse(node)[:80]}`")
            elif isinstance(node, ast.FunctionDef):
                self.function(node)
            else:
                raise self.refuse(node, "a statement outside of functions")

    def function(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            if ast.unparse(decorator) not in self.language.decorators:
                raise self.refuse(decorator, "another decorator")
        a = node.args
        if a.kwarg is not None or a.kwonlyargs or node.returns is not None or getattr(node, "type_params", []):
            raise self.refuse(node, "arguments of another kind")
        for default in [*a.defaults, *(d for d in a.kw_defaults if d is not None)]:
            if not (isinstance(default, ast.Constant) and (default.value is None or _is_number(default.value))):
                raise self.refuse(default, "a default that is computed")
        every = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg is not None else [])]
        for argument in every:
            if argument.annotation is not None and ast.unparse(argument.annotation) != "tl.constexpr":
                raise self.refuse(argument, "an annotation")
        own = {argument.arg for argument in every}
        own |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
        reserved = {*self.language.modules, *self.language.builtins}
        for name in {*own, node.name}:
            if name in reserved or name.startswith("__"):
                raise self.refuse(node, f"the name {name[:80]}")
        self.functions.add(node.name)
        known = own | reserved | self.functions
        body = node.body[1:] if isinstance(node.body[0], ast.Expr) and _is_text(node.body[0].value) else node.body
        for statement in body:
            self.nodes(ast.walk(statement), known)

    def nodes(self, nodes: Iterable[ast.AST], known: set[str]) -> None:
        for node in nodes:
            if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS, *_OPERATORS)):
                raise self.refuse(node, f"a node of kind {type(node).__name__}")
            match node:
                case ast.Name(id=name) if name not in known:
                    raise self.refuse(node, f"the name {name[:80]}")
                case ast.Constant(value=str() as text) if text not in self.language.strings:
                    raise self.refuse(node, f"the text {text[:40]!r}")
                case ast.Constant(value=value) if not (value is None or isinstance(value, str) or _is_number(value)):
                    raise self.refuse(node, f"a constant of type {type(value).__name__}")
                case ast.Attribute():
                    self.attribute(node)
                case ast.keyword(arg=None):
                    raise self.refuse(node, "arguments from a table")
                case ast.For(orelse=[_, *_]):
                    raise self.refuse(node, "an `else` of a loop")
                case ast.comprehension(is_async=1):
                    raise self.refuse(node, "something asynchronous")

    def attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            raise self.refuse(node, "an attribute that is set")
        base, modules = node.value, self.language.modules
        allowed = modules[base.id] if isinstance(base, ast.Name) and base.id in modules else self.language.methods
        if node.attr not in allowed:
            raise self.refuse(node, f"the attribute {node.attr[:80]}")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float)
