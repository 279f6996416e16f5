"""Random cascades over one rank, data for them, and how a derived form is held against the definition.

A cascade has up to four reductions.  Each may use all earlier ones, in maps that real programs hold (exponentials that
a maximum stabilises, centred and normalised values, guarded divisions, masks) and in any others.
"""

# sympy's annotations call every argument a Basic.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import dataclasses

import numpy as np
import sympy as sp
from hypothesis import strategies as st
from sympy import Abs, Max, Min, S, Symbol, exp, log, sqrt, tanh

from fusecade.passes.algebra import Cascade, OnlineForm, Reduction
from fusecade.passes.algebra.expressions import (
    eq,
    exp2,
    expm1,
    ge,
    gt,
    land,
    lnot,
    log1p,
    lor,
    lt,
    relu,
    round_,
    rsqrt,
    select,
    sigmoid,
)
from fusecade.passes.algebra.levels import Levels
from fusecade.passes.algebra.numeric import evaluate, fold
from fusecade.passes.algebra.streaming import reference, run

x, v, c = [Symbol(name, real=True) for name in "x v c".split()]
u, N, cap = [Symbol(name, positive=True) for name in "u N cap".split()]
t = Symbol("t", integer=True, nonnegative=True)  # a mask: 0 or 1
LEAVES = frozenset([x, v, u, t])
ROWS, EXTENT = 5, 19
COMBINERS = ("sum",) * 7 + ("max", "max", "min", "argmax", "argmin", "prod", "any", "all")
TRUTH = ("any", "all")
MAX_OPERATIONS = 40


# --- expressions --------------------------------------------------------------------------------------------------

_UNARY = {
    "neg": lambda e: -e,
    "square": lambda e: e**2,
    "cube": lambda e: e**3,
    "abs": Abs,
    "relu": relu,
    "max0": lambda e: Max(0, e),
    "exp": exp,
    "exp2": exp2,
    "expm1": expm1,
    "tanh": tanh,
    "softcap": lambda e: cap * tanh(e / cap),
    "sigmoid": sigmoid,
    "log": lambda e: log(e) if e.is_positive else log(1 + e**2),
    "log1p": lambda e: log1p(e) if e.is_nonnegative else log1p(e**2),
    "sqrt": lambda e: sqrt(e) if e.is_nonnegative else sqrt(1 + e**2),
    "rsqrt": lambda e: rsqrt(e) if e.is_positive else rsqrt(1 + e**2),
    "inverse": lambda e: 1 / e if e.is_positive else 1 / (1 + e**2),
    "round": round_,
    "sin": sp.sin,
    "sign": sp.sign,
    "power": lambda e: cap**e,
    "mean": lambda e: e / N,
}
_BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if b.is_positive else a / (1 + b**2),
    "pow": lambda a, b: a**b if a.is_positive else Abs(a) ** S.Half * b,
    "where row": lambda a, b: select(gt(c, 0), a, b),
    "where leaf": lambda a, b: select(gt(v, 0), a, b),
    "where mask": lambda a, b: select(t, a, b),
    "max": Max,
    "min": Min,
}
_BINARY_DRAWN = ("add", "add", "sub", "mul", "mul", "mul", "div", "pow", "where row", "where leaf", "max", "min")


def _expressions(atoms: tuple[sp.Expr, ...], size: int) -> st.SearchStrategy[sp.Expr]:
    return st.recursive(
        st.sampled_from(atoms),
        lambda inner: st.one_of(
            st.builds(lambda e, k: _UNARY[k](e), inner, st.sampled_from(sorted(_UNARY))),
            st.builds(lambda a, b, k: _BINARY[k](a, b), inner, inner, st.sampled_from(_BINARY_DRAWN)),
        ),
        max_leaves=size,
    )


_LEAF_ATOMS = (x, x, v, u, t, c, N, S.One, sp.Integer(2), sp.Rational(1, 2))
_leaf_expressions = _expressions(_LEAF_ATOMS, 3)


def _shapes(earlier: tuple[Reduction, ...], e: sp.Expr, f: sp.Expr) -> list[sp.Expr]:
    """Maps as programs write them, around two arbitrary expressions."""
    result, weights = [e, e, f], []
    for r in earlier:
        d = r.name
        finite = select(eq(d, -S.Infinity), 0, d)
        if r.combiner == "max":
            masked = r.expr.has(S.NegativeInfinity)
            weight = exp(r.expr - (finite if masked else d))
            other = weight if masked else exp2((r.expr - d) * cap)
            weights += [weight, other]
            result += [weight, weight, e * weight, other, f * other]
        elif r.combiner == "sum":
            ratio = e / d if d.is_positive else select(eq(d, 0), 0, e / d) if d.is_nonnegative else e * d
            result += [ratio, (r.expr - d / N) ** 2, e * (f - d / N), ratio * f]
            result += [f * w * ratio / e for w in weights] + [(f - d) ** 2 * w / d for w in weights if d.is_positive]
            if d.is_nonnegative:
                result += [e * rsqrt(cap + d / N), e / sqrt(cap + d)]
    return result


@st.composite
def _maps(draw, earlier: tuple[Reduction, ...], combiner: str) -> sp.Expr:
    names = tuple(r.name for r in earlier)
    e = draw(_expressions(_LEAF_ATOMS + names * 2, 4)) if draw(st.booleans()) else draw(_leaf_expressions)
    f = draw(st.sampled_from((x, v, u, *names)))
    e = draw(st.sampled_from(_shapes(earlier, e, f)))
    if draw(st.integers(0, 9)) == 0:
        e = select(t, e, {"max": -S.Infinity, "min": S.Infinity, "prod": S.One}.get(combiner, S.Zero))
    if combiner in TRUTH:
        bound = draw(st.sampled_from((S.Zero, c, *names)))
        kind = draw(st.sampled_from((gt, ge, lt)))
        e = kind(e, bound)
        more = draw(st.integers(0, 4))
        e = {0: land(e, t), 1: lor(e, gt(c, 1)), 2: lnot(e)}.get(more, e)
    return e


def _name(index: int, combiner: str, e: sp.Expr) -> Symbol:
    if combiner in ("argmax", "argmin", *TRUTH):
        return Symbol(f"r{index}", integer=True, nonnegative=True)
    known = {"positive": True} if e.is_positive else {"nonnegative": True} if e.is_nonnegative else {"real": True}
    return Symbol(f"r{index}", **known)


@st.composite
def cascades(draw) -> Cascade:
    """A cascade of one to four reductions; the last one reads an earlier one where it can."""
    earlier: tuple[Reduction, ...] = ()
    if draw(st.booleans()):  # a softmax is where most real cascades start
        e = draw(st.sampled_from((x, x * cap, cap * tanh(x / cap), select(t, x, -S.Infinity), x + v)))
        earlier = (Reduction(Symbol("r0", real=True), "max", e),)
    for i in range(len(earlier), draw(st.integers(1, 4)) if not earlier else draw(st.integers(2, 4))):
        combiner = draw(st.sampled_from(COMBINERS))
        e = draw(_maps(earlier, combiner))
        if e.has(sp.nan, sp.zoo, sp.I) or e.count_ops() > MAX_OPERATIONS or not e.free_symbols & LEAVES:
            continue
        earlier = (*earlier, Reduction(_name(i, combiner, e), combiner, e))
    return Cascade(earlier, leaves=LEAVES)


# --- data ---------------------------------------------------------------------------------------------------------


def data_for(seed: int, offset: float = 0.0, rows: int = ROWS, extent: int = EXTENT) -> dict[Symbol, np.ndarray]:
    """Rows of data.  Masks: one row is open, one starts late, one has nothing at all, the others are mixed."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, extent)) < 0.6
    mask[0] = True
    mask[1] = np.arange(extent) >= extent // 2
    mask[2] = False
    data = {
        x: rng.normal(size=(rows, extent)) + offset,
        v: rng.normal(size=(rows, extent)) + offset,
        u: rng.uniform(0.2, 1.5, size=(rows, extent)),
        t: mask * 1.0,
        c: rng.normal(size=(rows, 1)),
        N: float(extent),
        cap: 1.5,
    }
    return {s: np.float64(np.float32(a)) for s, a in data.items()}  # so that float32 starts from the same values


# --- comparing ----------------------------------------------------------------------------------------------------


def _magnitude(form: OnlineForm, combiner: str, values: np.ndarray, env: dict, extent: int) -> np.ndarray:
    """Row by row, how large the numbers are that make up a result: what rounding errors are measured by."""
    folded, parts = dict(env), []
    for a in form.accumulators:
        part = np.broadcast_to(evaluate(a.psi, env), values.shape)
        parts.append(np.max(np.abs(part), axis=-1))
        how = a.combiner if a.combiner == "prod" else "sum"
        folded[a.symbol] = fold(how, np.abs(part), extent)[..., None]
    read = np.broadcast_to(np.abs(evaluate(form.readout, folded)), (*values.shape[:-1], 1))[..., 0]
    scale = 1 + np.sum(np.abs(values), axis=-1) + np.where(np.isfinite(read), read, 0)
    if combiner == "prod":
        scale = scale + np.abs(fold("prod", values, extent))
    for power in form.readout.atoms(sp.Pow):  # of a moving value, by how many elements there are: not used in kernels
        scale = np.where(
            np.isfinite(np.broadcast_to(evaluate(power, folded), (*scale.shape, 1))[..., 0]), scale, np.nan
        )
    largest = np.max([np.max(np.abs(values), axis=-1), *parts], axis=0)
    return np.where(largest > 1e8, np.nan, scale)  # overflow: an accumulator may be larger than the value it makes up


def _sound(r: Reduction, cascade: Cascade, env: dict) -> np.ndarray:
    """The rows where no sum or product that `r` reads has overflowed: what an infinity of that kind does is no algebra."""
    read = [q.name for q in cascade.reductions if q.name in r.expr.free_symbols and q.combiner in ("sum", "prod")]
    return np.all([np.ones(ROWS, bool), *(np.isfinite(env[s][..., 0]) for s in read)], axis=0)


def check(cascade: Cascade, levels: Levels, seed: int, tolerance: float = 1e-8) -> dict[Symbol, bool]:
    """Run by the derived forms and compare each reduction with its definition, given the reductions that it reads.

    Returns, for each reduction, whether some row could be compared.  Raises AssertionError for a wrong form.
    """
    data = data_for(seed)
    comparable = dict.fromkeys((r.name for r in cascade.reductions), False)
    for merge in ("sequential", "tree"):
        found = run(cascade, levels, data, rng=np.random.default_rng(seed), merge=merge)
        env = {**data, **{s: a[..., None] for s, a in found.items()}}
        for form in levels.forms.values():
            env |= {s: evaluate(e, {k: np.atleast_1d(a)[..., :1] for k, a in env.items()}) for s, e in form.anchors}
        for r in cascade.reductions:
            values = np.broadcast_to(evaluate(r.expr, env), (ROWS, EXTENT))
            expected, got = fold(r.combiner, values, EXTENT), found[r.name]
            scale = _magnitude(levels.forms[r.name], r.combiner, values, env, EXTENT)
            sound = _sound(r, cascade, env)
            if r.combiner in ("max", "min"):
                assert np.array_equal(np.isinf(expected[sound]), np.isinf(got[sound])), (
                    f"{r}: {got} instead of {expected}"
                )
            if r.combiner.startswith("arg"):  # equal keys up to rounding are equally right
                pick = lambda i, values=values: np.take_along_axis(values, i[..., None].astype(int), -1)[..., 0]  # noqa: E731
                expected, got = pick(expected), pick(np.where(np.isfinite(got), got, 0))
            known = np.isfinite(expected) & np.isfinite(scale) & np.all(np.isfinite(values), axis=-1)
            if r.combiner in ("max", "min"):
                known = np.isfinite(expected) & ~np.any(np.isnan(values), axis=-1)
                scale = 1 + np.abs(expected)
            known &= sound
            comparable[r.name] |= bool(np.any(known))
            with np.errstate(invalid="ignore"):
                wrong = known & ~(np.abs(got - expected) <= tolerance * scale)
            assert not np.any(wrong), (
                f"{merge}, rows {np.nonzero(wrong)[0]}: {got} instead of {expected}\n{r}\n"
                f"{levels.forms[r.name].certificate}\n{[str(q) for q in cascade.reductions]}"
            )
    return comparable


@dataclasses.dataclass(frozen=True)
class Errors:
    """Largest errors against float64 over the rows, in float32: as written, by the derived forms, and one ulp."""

    eager: float
    online: float
    ulp: float

    @property
    def excess(self) -> float:
        """At most 1 when the online form is as good as eager's: its error over twice eager's plus one ulp."""
        return self.online / (2 * self.eager + self.ulp)


def errors_in_float32(cascade: Cascade, levels: Levels, data: dict, tile: int, seed: int = 0) -> dict[Symbol, Errors]:
    """The errors of each reduction, over the rows where float64 and eager float32 give numbers.

    Eager's error is the largest over a few orders of the elements: by which order a sum is rounded is nobody's merit.
    """
    exact = reference(cascade, data)
    eager = reference(cascade, data, np.float32)
    places = {r.name for r in cascade.reductions if r.combiner.startswith("arg")}
    others = [
        reference(
            cascade, {s: a[..., order] if np.ndim(a) and a.shape[-1] > 1 else a for s, a in data.items()}, np.float32
        )
        for order in (slice(None, None, -1), np.random.default_rng(seed).permutation(data[x].shape[-1]))
        if not any(places & r.expr.free_symbols for r in cascade.reductions)
    ]
    found = [
        run(cascade, levels, data, [tile], np.random.default_rng(seed), merge, np.float32)
        for merge in ("sequential", "tree")
    ]
    result = {}
    env = {**data, **{s: a[..., None] for s, a in exact.items()}}
    for r in cascade.reductions:
        if r.combiner.startswith("arg"):  # what counts is the key at the position that was chosen
            keys = np.broadcast_to(evaluate(r.expr, env), data[x].shape)
            for results in (exact, eager, *found):
                chosen = np.where(np.isfinite(results[r.name]), results[r.name], 0)[..., None].astype(int)
                results[r.name] = np.take_along_axis(keys, chosen, -1)[..., 0]
        known = np.isfinite(exact[r.name]) & np.isfinite(eager[r.name])
        if not np.any(known):
            continue
        true = exact[r.name][known]

        def worst(of: list[dict], name=r.name, known=known, true=true) -> float:
            return float(np.max([np.abs(np.float64(a[name][known]) - true) for a in of]))

        ulp = float(np.finfo(np.float32).eps * np.max(np.abs(true)))
        orders = [] if r.name in places else others
        as_written = [o for o in (eager, *orders) if np.all(np.isfinite(o[r.name][known]))]
        result[r.name] = Errors(worst(as_written), worst(found), max(ulp, 1e-38))
    return result
