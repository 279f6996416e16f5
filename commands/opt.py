"""`fusecade opt`: passes over a program in its textual form.

    fusecade opt -p "canonicalise,fuse{target=sm_90}" program.mlir

The registry names every pass; those that need a target get the name of one of the table in `ir/target.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.parser import Parser
from xdsl.passes import ModulePass, PassPipeline
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, ParseError, VerifyException

from ..errors import FusecadeError, InternalCompilerError, InvalidArgument, UserError
from ..ir.attributes import AccessMap
from ..ir.cascade import KernelOp, ProgramOp
from ..ir.target import get_target
from ..ir.text import context, print_module
from ..ir.verify import verify
from ..passes.absorb_scales import AbsorbScales
from ..passes.algebra.forms import Refused
from ..passes.canonicalise import Canonicalise
from ..passes.count_passes import CountPasses
from ..passes.data_bounds import DataBoundsPass
from ..passes.defer_factors import DeferFactors
from ..passes.derive_online import DeriveOnline
from ..passes.exp2_units import Exp2Units
from ..passes.finite_masks import FiniteMasks
from ..passes.fuse import contiguous, fuse_program
from ..passes.hoist_monotone import HoistMonotone
from ..passes.inline_maps import InlineMaps
from ..passes.known_indices import KnownIndices
from ..passes.known_sums import KnownSums
from ..passes.needed_reads import NeededReads
from ..passes.nest_reductions import NestReductions
from ..passes.one_hot import OneHot
from ..passes.pass_classes import KernelPass, ProgramPass
from ..passes.plan_memory import plan_memory
from ..passes.reassociate import Reassociate
from ..passes.release_scales import ReleaseScales
from ..passes.repair import repair_kernel
from ..passes.schedule import schedule_kernel
from ..passes.split_reduction import SplitReduction
from ..passes.split_segments import SplitSegments
from ..passes.walk import LoopOptions


@dataclass(frozen=True)
class Fuse(ProgramPass):
    """`fuse`, priced for a target, or `always`; `complete` makes kernels of the rest, too.

    What was refused stands in the program's attribute `refusals`.
    """

    name = "fuse"
    target: str = "cpu"
    always: bool = False
    complete: bool = False

    def on_program(self, program: ProgramOp) -> None:
        fused = fuse_program(program, get_target(self.target), always=self.always, complete=self.complete)
        if fused.refusals:
            reasons = dict.fromkeys(f"{' '.join(dict.fromkeys(r.what))}: {r.reason}" for r in fused.refusals)
            program.attributes["refusals"] = ArrayAttr([StringAttr(text) for text in reasons])


@dataclass(frozen=True)
class Repair(KernelPass):
    """All rewrites of single kernels, in the order of the driver: online forms, units, scales."""

    name = "repair"
    target: str = "cpu"
    lazy: bool = False

    def on_kernel(self, kernel: KernelOp) -> None:
        repair_kernel(kernel, kernel.streamed, get_target(self.target), self.lazy)


@dataclass(frozen=True)
class Schedule(ModulePass):
    """`schedule` for a target: a `tile.kernel` for each kernel is added to the module, buffers in row-major order.

    Two, where the streamed rank is cut into parts: that of a part, and the merge.  In front, what finds bounds in data.
    skip, lazy: as in `LoopOptions`.
    """

    name = "schedule"
    target: str = "cpu"
    skip: str = "by_cost"
    lazy: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        target = get_target(self.target)
        for kernel in [k for k in op.walk() if isinstance(k, KernelOp)]:
            inputs = [contiguous(a.type) for a in kernel.body.block.args]  # type: ignore[arg-type]
            outputs = [
                (contiguous(v.type), AccessMap.of(v.owner.out_ranks(v.index)))  # type: ignore[union-attr, arg-type]
                for v in kernel.returned
            ]
            scheduled = schedule_kernel(kernel, target, inputs, outputs, options=LoopOptions(self.skip, self.lazy))
            if isinstance(scheduled, Refused):
                kernel.attributes["refused"] = StringAttr(scheduled.reason)
            else:
                if scheduled.before is not None:
                    op.body.block.add_op(scheduled.before.scheduled.kernel)
                op.body.block.add_op(scheduled.kernel)
                if scheduled.merge is not None:
                    op.body.block.add_op(scheduled.merge.scheduled.kernel)


@dataclass(frozen=True)
class PlanMemory(ProgramPass):
    """`plan-memory`, an analysis: `arena` has the offset of each intermediate, `arena_bytes` the total."""

    name = "plan-memory"

    def on_program(self, program: ProgramOp) -> None:
        plan = plan_memory(program)
        program.attributes["arena"] = DictionaryAttr({k: IntegerAttr(v, i64) for k, v in plan.offsets.items()})
        program.attributes["arena_bytes"] = IntegerAttr(plan.total, i64)
        program.attributes["arena_bound"] = IntegerAttr(plan.bound, i64)


PASSES: dict[str, type[ModulePass]] = {
    row.name: row
    for row in (
        KnownIndices, Canonicalise, FiniteMasks, OneHot, KnownSums, Reassociate, SplitSegments, NeededReads, NestReductions,
        CountPasses, Fuse, ReleaseScales, InlineMaps, DeferFactors, DeriveOnline, HoistMonotone, Exp2Units, AbsorbScales,
        Repair, SplitReduction, DataBoundsPass, Schedule, PlanMemory,
    )
}  # fmt: skip


def read_pipeline(text: str) -> tuple[ModulePass, ...]:
    """`canonicalise,fuse{target=sm_90}` as passes.  Raises InvalidArgument for what there is not."""
    try:
        specs = list(parse_pipeline(text)) if text else []
    except ArgSpecParseError as error:
        raise InvalidArgument(
            f"the passes {text!r} cannot be read: {error}", next_step="write them as `name,other{option=value}`"
        ) from error
    passes = []
    for spec in specs:
        if spec.name not in PASSES:
            raise InvalidArgument.choice("a pass", spec.name, PASSES)
        try:
            passes.append(PASSES[spec.name].from_spec(spec))
        except ValueError as error:
            raise InvalidArgument(
                f"pass {spec.name}: {error}", next_step=f"{spec.name} takes {_options(spec.name)}"
            ) from error
    return tuple(passes)


def _options(name: str) -> str:
    options = [f"{f.name}={f.default}" for f in fields(PASSES[name])]  # type: ignore[arg-type]
    return ", ".join(options) or "no options"


def optimise(
    text: str,
    pipeline: str = "",
    *,
    name: str = "<text>",
    print_after_all: bool = False,
    verify_each: bool = True,
) -> str:
    """The program after the passes, as text; with `print_after_all`, also after each of them.

    Raises UserError for text that is no program, InternalCompilerError for a pass that makes an invalid one.
    """
    passes = read_pipeline(pipeline)
    module = _parsed(text, name)
    printed: list[str] = []
    previous = print_module(module)

    def after(done: ModulePass | None, op: ModuleOp, _: ModulePass | None) -> None:
        nonlocal previous
        if done is None:
            return
        if verify_each:
            _verified(op, done.name)
        if print_after_all:
            now = print_module(op)
            printed.append(f"// after {done.name}\n{'(unchanged)' if now == previous else now}")
            previous = now

    _run(PassPipeline(passes, after), module)
    return (
        "\n".join(p.rstrip("\n") for p in [*printed, *([] if print_after_all and passes else [print_module(module)])])
        + "\n"
    )


def _parsed(text: str, name: str) -> ModuleOp:
    try:
        module = Parser(context(), text, name).parse_module()
        verify(module)
    except (ParseError, VerifyException) as error:
        raise UserError(
            f"{name} is not a valid program: {error}", next_step="mend the program where the message points"
        ) from error
    return module


def _verified(module: ModuleOp, stage: str) -> None:
    try:
        verify(module)
    except VerifyException as error:
        raise InternalCompilerError(f"the program is not valid any more: {error}", stage=stage) from error


def _run(pipeline: PassPipeline, module: ModuleOp) -> None:
    names: Callable[[], str] = lambda: ",".join(p.name for p in pipeline.passes)  # noqa: E731
    try:
        pipeline.apply(context(), module)
    except FusecadeError:
        raise
    except Exception as error:
        raise InternalCompilerError(f"{type(error).__name__} in {names()}: {error}") from error
