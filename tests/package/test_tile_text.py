"""Sources in packages: what the printers write passes, and nothing that could reach further does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusecade.codegen import torch_functions, triton_functions
from fusecade.errors import InvalidPackage
from fusecade.runtime.package.tile_text import TORCH, TRITON, check, load_function

GOLDENS = Path(__file__).parents[1] / "goldens" / "codegen"
KERNEL = "import torch\n\n\n@torch.no_grad()\ndef k_programs(x, o, start, stop):\n    {}\n"


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.py")), ids=lambda p: p.stem)
def test_what_is_printed_passes(path: Path):
    check(path.read_text(), TORCH if path.stem.endswith("_torch") else TRITON, path.name)


def test_the_printers_tables_pass():
    """Every row that a printer has, whether or not some test prints it."""
    rows = [*torch_functions.MAPS.values(), *torch_functions.REDUCTIONS.values(), *torch_functions.OF_NOTHING.values()]
    names = dict(zip(("dim", "keepdim", "start", "at", "least", "out"), ["0"] * 4 + ["1.0", "o"], strict=True))
    lines = [row.format("x", "x", "x", rounded=".to(torch.bfloat16)", **names) for row in rows]
    helpers = "\n\n".join(text.strip() for text in torch_functions.HELPERS.values())
    text = "import math\nimport torch\n\n" + helpers + "\n\n\ndef k(x, o):\n    " + "\n    ".join(lines) + "\n"
    check(text, TORCH, "tables")
    rows = [row.format("x", "x", "x", type="tl.float32") for row in triton_functions.MAPS.values()]
    helpers = "\n\n".join(f"@triton.jit\n{text.strip()}" for text in triton_functions.HELPERS.values())
    head = "import triton\nimport triton.language as tl\n\n"
    text = head + helpers + "\n\n\n@triton.jit\ndef k(x):\n    " + "\n    ".join(f"y = {r}" for r in rows) + "\n"
    check(text, TRITON, "tables")


def test_the_printers_name_nothing_else():
    """The names that stand in the printers' own text, `torch.…` and `tl.…`, are in the table."""
    folder = Path(torch_functions.__file__).parent
    said = {"torch": TORCH.modules["torch"], "tl": TRITON.modules["tl"]}
    for module, allowed in said.items():
        pattern = "torch_*.py" if module == "torch" else "triton_*.py"
        found = {n for p in folder.glob(pattern) for n in re.findall(rf"\b{module}\.([a-zA-Z_0-9]+)", p.read_text())}
        assert found - allowed - {"float", "int", "uint"} == set()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("torch.load(x)", "the attribute load"),
        ("torch.ops.aten.add(x, x)", "the attribute (aten|ops|add)"),
        ("torch.utils.cpp_extension.load(x)", "the attribute"),
        ("y = torch; y.hub", "the attribute hub"),
        ("x.__class__.__mro__", "the attribute __"),
        ("x.numpy().tofile(o)", "the attribute"),
        ("x.data_ptr()", "the attribute data_ptr"),
        ("x.apply_(print)", "the attribute apply_|the name print"),
        ("open('/etc/passwd')", "the name open"),
        ("eval('1')", "the name eval"),
        ("__import__('os').system('true')", "the attribute system|the name __import__|the text 'true'"),
        ("__builtins__['open']", "the name __builtins__"),
        ("import os", "a node of kind Import"),
        ("from os import system", "a node of kind ImportFrom"),
        ("f = lambda: 0", "a node of kind Lambda"),
        ("y = {i for i in range(3)}", "a node of kind SetComp"),
        ("while True: pass", "a node of kind While"),
        ("with x: pass", "a node of kind With"),
        ("global torch", "a node of kind Global"),
        ("del x", "a node of kind Del"),
        ("raise x", "a node of kind Raise"),
        ("x.shape = 3", "an attribute that is set"),
        ("torch = x", "the name torch"),
        ("__x = 1", "the name __x"),
        ("y = f'{x}'", "a node of kind JoinedStr"),
        ("y = b'1'", "a constant of type bytes"),
        ("y = 'a' * 10 ** 9", "the text 'a'|a node of kind Pow"),
        ("y = (z := 3)", "a node of kind NamedExpr"),
        ("torch.add(**x)", "arguments from a table"),
        ("def f(): pass", "a node of kind FunctionDef"),
        ("class A: pass", "a node of kind ClassDef"),
        ("yield x", "a node of kind Yield"),
        ("x @ o", "a node of kind MatMult"),
    ],
)
def test_what_no_printer_writes_is_refused(line: str, words: str):
    with pytest.raises(InvalidPackage, match=words):
        load_function(KERNEL.format(line), "k_programs", "k.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\n", "`import os`"),
        ("from torch import load\n", "`from torch import load`"),
        ("import torch\ntorch.load('x')\n", "a statement outside of functions"),
        ("def k(x=torch.load('y')): pass\n", "a default that is computed"),
        ("@torch.hub\ndef k(x): pass\n", "another decorator"),
        ("@open('x')\ndef k(x): pass\n", "another decorator"),
        ("def k(x: open('y')): pass\n", "an annotation"),
        ("def k(x) -> open('y'): pass\n", "arguments of another kind"),
        ("def k(**x): pass\n", "arguments of another kind"),
        ("def range(x): pass\n", "the name range"),
        ("async def k(x): pass\n", "a statement outside of functions"),
        ("(" * 5000 + ")" * 5000, "no Python text"),
        ("def k(x):\n    y = " + "-" * 5000 + "x\n", "no Python text|nested too deep|does not load"),
        ("x" * (1 << 21), "characters"),
        ("\0", "no Python text"),
        ("def other(x): pass\n", "has no function 'k'"),
        ("", "has no function 'k'"),
    ],
)
def test_modules_that_no_printer_writes_are_refused(text: str, words: str):
    with pytest.raises(InvalidPackage, match=words):
        load_function(text, "k", "k.py")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tl.core.os", "the attribute"),
        ("tl.inline_asm_elementwise(x)", "the attribute inline_asm_elementwise"),
        ("tl.static_print(x)", "the attribute static_print"),
        ("triton.runtime", "the attribute runtime"),
        ("print(x)", "the name print"),
    ],
)
def test_triton_has_limits_too(line: str, words: str):
    text = f"import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef k(x, B: tl.constexpr):\n    {line}\n"
    with pytest.raises(InvalidPackage, match=words):
        check(text, TRITON, "k.py")
