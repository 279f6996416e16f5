"""How scalar functions, reductions and index arithmetic are written in torch: tables, one row a function."""

from __future__ import annotations

from .text import PYTHON, Spelling

# Scalar function -> text; {0}, {1}, ... are operands, {out} is where the result goes.
MAPS: dict[str, str] = {
    **{n: f"torch.{n}({{0}}, {{1}}, out={{out}})" for n in ("add", "sub", "mul", "div", "pow", "maximum", "minimum")},
    **{n: f"torch.{n}({{0}}, {{1}}, out={{out}})" for n in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{
        n: f"torch.{n}({{0}}, out={{out}})"
        for n in ("neg abs exp exp2 expm1 log log2 log1p sqrt rsqrt tanh sin cos erf floor ceil trunc round".split())
    },
    "iadd": "torch.add({0}, {1}, out={out})",
    "isub": "torch.sub({0}, {1}, out={out})",
    "imul": "torch.mul({0}, {1}, out={out})",
    "ifloordiv": 'torch.div({0}, {1}, rounding_mode="floor", out={out})',
    "irem": "torch.fmod({0}, {1}, out={out})",
    "imaximum": "torch.maximum({0}, {1}, out={out})",
    "iminimum": "torch.minimum({0}, {1}, out={out})",
    "ilt": "torch.lt({0}, {1}, out={out})",
    "ile": "torch.le({0}, {1}, out={out})",
    "igt": "torch.gt({0}, {1}, out={out})",
    "ige": "torch.ge({0}, {1}, out={out})",
    "ieq": "torch.eq({0}, {1}, out={out})",
    "ine": "torch.ne({0}, {1}, out={out})",
    "inside": "inside({0}, {1}, {out})",
    "and": "torch.bitwise_and({0}, {1}, out={out})",
    "or": "torch.bitwise_or({0}, {1}, out={out})",
    "xor": "torch.bitwise_xor({0}, {1}, out={out})",
    "select": "torch.where({0}, {1}, {2}, out={out})",
    "int_to_float": "{out}.copy_({0})",
    "bool_to_float": "{out}.copy_({0})",
    "float_to_int": "{out}.copy_({0})",
    "bool_to_int": "{out}.copy_({0})",
    "widen": "{out}.copy_({0})",
    "narrow": "{out}.copy_({0}{rounded})",
    "to_bf16": "{out}.copy_({0}{rounded})",
    "to_f16": "{out}.copy_({0}{rounded})",
}

# Where the second operand may be a Python number; elsewhere it has to be a tensor.
TAKES_NUMBER = set(
    "add sub mul div pow lt le gt ge eq ne iadd isub imul ilt ile igt ige ieq ine inside ifloordiv irem".split()
)
COMMUTES = {"add", "mul", "maximum", "minimum", "iadd", "imul", "imaximum", "iminimum", "and", "or", "xor", "eq", "ne"}
CLAMPS = {"maximum": "min", "imaximum": "min", "minimum": "max", "iminimum": "max"}  # torch.clamp, with a number

REDUCTIONS: dict[str, str] = {
    "sum": "torch.sum({0}, {dim}, keepdim={keepdim}, out={out})",
    "prod": "torch.prod({0}, {dim}, keepdim={keepdim}, out={out})",
    "max": "torch.amax({0}, {dim}, keepdim={keepdim}, out={out})",
    "min": "torch.amin({0}, {dim}, keepdim={keepdim}, out={out})",
    "any": "torch.any({0}, {dim}, keepdim={keepdim}, out={out})",
    "all": "torch.all({0}, {dim}, keepdim={keepdim}, out={out})",
    "argmax": "first_extreme(torch.amax, torch.argmax, {0}, {dim}, {start}, {out}, {at})",
    "argmin": "first_extreme(torch.amin, torch.argmin, {0}, {dim}, {start}, {out}, {at})",
}
# For a rank that may be empty: torch refuses the extreme of nothing.
OF_NOTHING: dict[str, str] = {
    "max": "extreme(torch.amax, {0}, {dim}, {keepdim}, {least}, {out})",
    "min": "extreme(torch.amin, {0}, {dim}, {keepdim}, {least}, {out})",
}

# Written for tiles in place of the row of `MAPS`.
OF_TILES: dict[str, str] = {"exp": "powers({0}, {out})"}

HELPERS: dict[str, str] = {
    "powers": '''
def powers(x, out):
    """e to the power of `x`, and 0 where that is no normal number: there the library takes up to 250 times as long."""
    if x.dtype != torch.float32 or x.numel() == 0 or not torch.amin(x) < -87.3:
        return torch.exp(x, out=out)
    torch.exp(torch.clamp(x, min=-87.3, out=out), out=out)
    return torch.threshold_(out, 1.22e-38, 0.0)
''',
    "inside": '''
def inside(index, size, out):
    """True; where an index is none of so many elements, torch raises IndexError."""
    torch.zeros(1, dtype=torch.bool).expand(size).index_select(0, index.reshape(-1))
    return out.fill_(True)
''',
    "cut": '''
def cut(slot, *shape):
    """The first elements of a scratch tensor, as a tensor of this shape."""
    return slot.view(-1)[: math.prod(shape)].view(shape)
''',
    "any_of": '''
def any_of(x):
    """Whether any element is true: as bytes, which torch compares many at a time."""
    return x.numel() > 0 and bool(x.view(torch.uint8).amax())
''',
    "all_of": '''
def all_of(x):
    """Whether all elements are true."""
    return x.numel() == 0 or bool(x.view(torch.uint8).amin())
''',
    "first_extreme": '''
def first_extreme(extreme, arg, x, dim, start, out, at):
    """The extreme of `x` along `dim` and its first index, counted from `start`; NaN counts as the extreme.

    `out` may be None, where only the index is wanted.

    In blocks where that divides evenly: the extreme of each block is quick, and only one block a row is searched.
    """
    length = x.shape[dim]
    if dim == x.dim() - 1 and length % 64 == 0 and length > 128 and x.is_contiguous():
        rows, blocks = x.numel() // length, length // 64
        whole, x, dim = x, extreme(x.view(rows, blocks, 64), 2), 1
        block = arg(x, 1)
        found = whole.view(-1, 64).index_select(0, block + torch.arange(0, rows * blocks, blocks))
        where = arg(found, 1).add_(block, alpha=64)
    else:
        where = arg(x, dim)
    if out is not None:
        out.copy_(extreme(x, dim).view(out.shape))
    torch.add(where.view(at.shape), start, out=at)
    return out, at
''',
    "extreme": '''
def extreme(function, x, dim, keepdim, of_nothing, out):
    """The extreme of `x` along `dim`, or `of_nothing` where there is nothing."""
    return function(x, dim, keepdim=keepdim, out=out) if x.shape[dim] else out.fill_(of_nothing)
''',
    "stretch": '''
def stretch(x, dim, start, stop):
    """The elements `start` to `stop` along `dim`; zero where that leaves the tensor."""
    first, last = max(start, 0), min(stop, x.shape[dim])
    if first == start and last == stop:
        return x.narrow(dim, start, stop - start)
    found = x.new_zeros(*x.shape[:dim], stop - start, *x.shape[dim + 1 :])
    if first < last:
        found.narrow(dim, first - start, last - first).copy_(x.narrow(dim, first, last - first))
    return found
''',
    "picked": '''
def picked(x, dim, size, step, along):
    """A view of `x` whose elements along `dim` are found further on, by a step for each step along other dimensions.

    size: of the dimension in its place.  step: 1, or -1 where the last element comes first.  along: (dimension, 1 or -1).
    """
    sizes, strides = list(x.shape), list(x.stride())
    first = sum(sizes[d] - 1 for d, sign in along if sign < 0)
    for d, sign in along:
        strides[d] += sign * strides[dim]
    offset = x.storage_offset() + first * strides[dim]
    sizes[dim] = size
    found = x.as_strided(sizes, strides, offset)
    return found if step > 0 else found.flip(dim)
''',
    "gathered": '''
def gathered(buffer, *index):
    """The elements at `index`, one tensor a dimension; zero where it leaves the buffer."""
    index = [torch.as_tensor(i) for i in index]
    inside = torch.ones((), dtype=torch.bool)
    for i, size in zip(index, buffer.shape):
        inside = inside & (i >= 0) & (i < size)
    if 0 in buffer.shape:
        return buffer.new_zeros(inside.shape)
    clamped = tuple(i.clamp(0, size - 1) for i, size in zip(index, buffer.shape))
    return torch.where(inside, buffer[clamped], torch.zeros((), dtype=buffer.dtype))
''',
}

TENSORS = Spelling(
    floordiv=PYTHON.floordiv,
    ceildiv=PYTHON.ceildiv,
    mod=PYTHON.mod,
    minimum=lambda a, b: f"torch.minimum(torch.as_tensor({a}), torch.as_tensor({b}))",
    maximum=lambda a, b: f"torch.maximum(torch.as_tensor({a}), torch.as_tensor({b}))",
)
