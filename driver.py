"""The pipeline, as one readable list: an ATen graph in, a plan of printed kernels out.

This is the only module that asks the machine what devices it has; what it was started with is in `environment.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch
from xdsl.ir import Operation, SSAValue

from .assembly.collector import collector_paused
from .assembly.devices import Machine, TimedDevice
from .assembly.printing import print_kernel
from .assembly.reassociated import reassociated
from .assembly.tunable import Configure, Configured, Tunable
from .assembly.waiting import one_that_waits
from .codegen.artifact import KernelArtifact, Layout
from .codegen.emit import NotPrintable
from .environment import Environment
from .errors import InvalidArgument, MissingTool
from .frontend.edit import Edit
from .frontend.importer import Imported
from .frontend.indices import dim
from .frontend.sizes import element_type, size
from .ir import symbols, tile
from .ir.attributes import AccessMap
from .ir.cascade import KernelOp, ProgramOp
from .ir.launch import check_target, checked
from .ir.names import anonymous, note
from .ir.target import Target, get_target
from .ir.text import print_module
from .ir.verify import verify
from .passes.algebra.forms import Refused
from .passes.canonicalise import canonicalise_program
from .passes.count_passes import count_kernel
from .passes.fingerprint import Known
from .passes.finite_masks import finite_masks
from .passes.fuse import Fused, Refusal, Trial, fuse_program
from .passes.known_indices import known_indices
from .passes.needed_reads import needed_reads
from .passes.plan_memory import MemoryPlan, Uses, plan_memory
from .passes.repair import repair_kernel
from .passes.schedule import laid_out, schedule_kernel
from .passes.scheduled import Scheduled
from .passes.split_segments import split_segments
from .passes.walk import LoopOptions

if TYPE_CHECKING:
    from torch import fx

    from .assembly.plan_cache import Tuning
    from .assembly.tuning import Tuner
    from .autotune.options import Options as Search

log = logging.getLogger("fusecade")

REMAINDERS = ("inductor", "eager", "kernels")
TUNING = ("off", "quick", "full")
FUSING = ("by_cost", "always")
SKIPPING = ("by_cost", "bounds", "always", "never")
SWITCH = ("off", "on")
SAVING = ("by_cost", "torch")


@dataclass(frozen=True)
class Options:
    """What a user may choose.  Raises InvalidArgument for a value that is none of the known ones.

    remainder: what becomes of operations that are in no fused kernel: "inductor" compiles them, "eager" runs PyTorch's own,
    "kernels" makes a kernel of each that is no opaque operator, and PyTorch runs those.
    fuse: "by_cost" takes a kernel that is predicted to be faster than its operations apart, "always" each that there is.
    skip: whether kernels ask data (a mask) which tiles to leave out, before they load them: "by_cost" where asking is
    predicted to cost next to nothing, "always" where there is something to ask, "never"; "bounds" has a kernel ahead find the
    first and the last index that data leaves open, and the loop walk no further ("by_cost" too, where that costs little).
    lazy: "on" moves the running maximum of an online form only when it is exceeded by a factor of 256.
    save: what the forward keeps for its backward: "by_cost", or as PyTorch's own partitioner chooses, "torch".
    parameters: launch parameters of all kernels, by name, in place of what the cost model or the default says.
    mode, inductor: a mode of `torch.compile` and settings by name, for Inductor, which compiles the rest.
    """

    target: str = "auto"
    remainder: str = "inductor"
    tune: str = "off"
    fuse: str = "by_cost"
    strict: bool = False
    print_after_all: bool = False
    skip: str = "by_cost"
    lazy: str = "off"
    save: str = "by_cost"
    parameters: Mapping[str, int] = field(default_factory=dict)
    mode: str = "default"
    inductor: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.remainder not in REMAINDERS:
            raise InvalidArgument.choice("remainder", self.remainder, REMAINDERS)
        if self.tune not in TUNING:
            raise InvalidArgument.choice("tune", self.tune, TUNING)
        if self.fuse not in FUSING:
            raise InvalidArgument.choice("fuse", self.fuse, FUSING)
        if self.skip not in SKIPPING:
            raise InvalidArgument.choice("skip", self.skip, SKIPPING)
        if self.lazy not in SWITCH:
            raise InvalidArgument.choice("lazy", self.lazy, SWITCH)
        if self.save not in SAVING:
            raise InvalidArgument.choice("save", self.save, SAVING)
        checked(self.parameters)

    @property
    def loops(self) -> LoopOptions:
        return LoopOptions(self.skip, self.lazy == "on", checked(self.parameters))


def package_version() -> str:
    """Of Fusecade, as processes on several machines compare it."""
    from . import __version__

    return __version__


def tuned_for(environment: Environment, target: Target, mode: str = "off") -> Tuning:
    """What says which configurations the kernels of a target are to have.

    mode: as in `Options.tune`; "off" only looks up what was tuned.  Raises InvalidArgument where something is to be
    measured on a target that is not in this machine.
    """
    if mode == "off":
        from .assembly.tuned import Tuned

        return Tuned.of(environment.cache_dir / "tuning", environment.cache_url, machine_of(target))
    from .autotune.options import MODES

    return tuner_for(environment, target, MODES[mode], asked=f"tune={mode!r}")


def tuner_for(
    environment: Environment, target: Target, search: Search, *, offline: bool = False, asked: str = "tuning"
) -> Tuner:
    """What tunes the kernels of a target.  search: the options of a search.  Raises InvalidArgument as `tuned_for` does."""
    machine = machine_of(target)
    if not offline and (not machine.present or (target.kind != "cpu" and environment.interpret)):
        raise InvalidArgument(
            f"{asked} measures, and {target.name} is not in this machine",
            next_step=f"leave `tune` at 'off'; `fusecade tune --offline --target {target.name}` ranks what is not measured",
        )
    from .assembly.tuning import Tuner

    folder, url = environment.cache_dir, environment.cache_url
    tuner = Tuner.of(folder / "tuning", url, machine, search, folder, offline=offline)
    tuner.devices = timed_devices(machine)
    return tuner


def check_parameters(options: Options, target: Target) -> None:
    """Raises InvalidArgument for launch parameters that a target has not, MissingTool for what this Triton lacks."""
    given = options.loops.launch
    check_target(given, target)
    if any(name == "descriptors" and value for name, value in given):
        import triton.language

        if not hasattr(triton.language, "make_tensor_descriptor"):
            raise MissingTool(
                "tl.make_tensor_descriptor",
                needed_for="parameters={'descriptors': True}",
                install="pip install -U triton",
            )


def pick_target(name: str, devices: set[str] | None = None) -> Target:
    """The target called `name`; "auto" means the device the tensors are on, or the machine's GPU, else the CPU."""
    if name != "auto":
        return get_target(name)
    wants_gpu = "cuda" in devices if devices else torch.cuda.is_available()
    if not wants_gpu or not torch.cuda.is_available():
        return get_target("cpu")
    if torch.version.hip:
        return get_target("gfx942")
    major, minor = torch.cuda.get_device_capability()
    known = {80: "sm_80", 86: "sm_80", 87: "sm_80", 89: "sm_89", 90: "sm_90", 100: "sm_100"}
    return get_target(known.get(10 * major + minor, "sm_100" if major >= 10 else "sm_80"))


def machine_of(target: Target) -> Machine:
    """What there is in this machine of a target."""
    if target.kind == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine(target, True, torch.get_num_threads(), memory >> 30 << 30)
    if not torch.cuda.is_available() or pick_target("auto") != target:
        return Machine(target, False, target.sms, 0)
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    runtime = torch.version.hip or torch.version.cuda or ""
    return Machine(target, True, found.multi_processor_count, found.total_memory >> 30 << 30, str(runtime))


def timed_devices(machine: Machine) -> tuple[TimedDevice, ...]:
    """The devices of a machine that are like the one it describes, the present one first."""
    if machine.target.kind == "cpu":
        return (TimedDevice("cpu"),)
    if not machine.present:
        return ()
    current, count = torch.cuda.current_device(), torch.cuda.device_count()
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if torch.version.hip else ("CUDA_VISIBLE_DEVICES",)
    variable = next((name for name in names if name in os.environ), names[0])
    visible = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    found: list[TimedDevice] = []
    wanted = _likeness(current)
    for n in [current, *(n for n in range(count) if n != current)]:
        if _likeness(n) != wanted:
            continue
        name = str(getattr(torch.cuda.get_device_properties(n), "uuid", "") or n)
        # A number counts among those that are visible to this process; of one alone nothing has to be said.
        alone = ((variable, visible[n] if n < len(visible) else str(n)),) if count > 1 else ()
        found.append(TimedDevice(f"gpu-{name}", alone))
    return tuple(found)


def _likeness(device: int) -> tuple[object, ...]:
    """What times depend on, as far as keys of the tuning cache know it."""
    found = torch.cuda.get_device_properties(device)
    return found.name, found.multi_processor_count, found.total_memory >> 30


@dataclass
class Call:
    """One kernel in the graph: which FX nodes it reads, which nodes' values it writes.

    The layouts of `artifact.inputs` and `artifact.outputs` are exactly those of the nodes' tensors.
    sizes: what each size argument is: an integer, or the FX node that gives it.
    """

    artifact: KernelArtifact
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    sizes: dict[str, fx.Node | tuple[fx.Node, int] | int] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()


@dataclass
class Plan:
    """A graph with the kernels that replace parts of it.

    externs: (operator, reason) of what stays opaque.  refusals: what was not fused, and why.  rewrites: (rule, what,
    certificate).  memory: the intermediates between kernels.  edit: how `gm` differs from the graph that was given.
    """

    gm: fx.GraphModule
    target: Target
    calls: list[Call] = field(default_factory=list)
    externs: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    rewrites: list[tuple[str, str, str]] = field(default_factory=list)
    memory: MemoryPlan | None = None
    hbm_bytes_unfused: int = 0
    program_text: str = ""
    edit: Edit | None = None

    @property
    def hbm_bytes(self) -> int:
        return sum(c.artifact.facts["hbm_bytes"] for c in self.calls)


def plan_graph(
    gm: fx.GraphModule,
    target: Target,
    options: Options | None = None,
    size_names: Mapping[str, str] | None = None,
    hints: Mapping[str, int] | None = None,
    configure: Configure | None = None,
    known: Known | None = None,
) -> Plan:
    """Everything from the ATen graph to printed kernels.

    size_names: other names for torch's size symbols.  hints: likely values of symbolic sizes, used for pricing only.
    configure: says of each kernel which configuration it is to have, where that is not the cost model's choice.
    known: what was decided for clusters of other graphs; it grows.
    Raises UnsupportedProgram for a graph that is not functional ATen.
    """
    options = options or Options()
    with collector_paused():
        found = reassociated(gm, target, hints, size_names)
    opaque = found.imported.opaque()
    plan = _Pipeline(
        found.imported, found.gm, target, options, dict(hints or {}), size_names or {}, configure, known
    ).run()
    plan.externs = list(found.externs)
    for op, extern in opaque.items():
        if op.parent is None and extern in plan.externs:  # a pass left nothing that reads it
            plan.externs.remove(extern)
    plan.edit, plan.rewrites[:0] = found.edit, found.rewrites
    return plan


class _Pipeline:
    def __init__(
        self,
        imported: Imported,
        gm: fx.GraphModule,
        target: Target,
        options: Options,
        hints: dict[str, int],
        size_names: Mapping[str, str],
        configure: Configure | None,
        known: Known | None,
    ):
        self.size_names, self.configure, self.known = size_names, configure, known
        self.imported, self.gm, self.target, self.options, self.hints = imported, gm, target, options, hints
        self.plan = Plan(gm, target)
        self.previous = ""
        self.made: dict[tuple, KernelArtifact | Refused] = {}  # by what was priced, and the layouts
        self.printed: dict[str, KernelArtifact] = {}  # by the text of the tile kernel, without names
        self.adopted: set[int] = set()  # trials that a kernel has taken over
        self.views_of: dict[SSAValue, list[fx.Node]] = {}
        for node, view in imported.views.items():
            self.views_of.setdefault(view.value, []).append(node)
        self.aliases: dict[SSAValue, list[tuple[fx.Node, tuple[sympy.Expr, ...]]]] = {}
        self.written: dict[SSAValue, tuple[fx.Node, tuple[sympy.Expr, ...]]] = {}  # where a kernel leaves a value

    def run(self) -> Plan:
        program = self.imported.program
        with collector_paused():
            fused = self._fused(program)
        verify(program)
        self._anchor_results(fused)
        uses: dict[Operation, Uses] = {}
        for kernel in fused.kernels:
            call = self._lower(kernel, fused)
            if isinstance(call, Refused):
                names = tuple(note(kernel, "nodes").split())
                self.plan.refusals.append(Refusal(names, call.reason))
            else:
                self.plan.calls.append(call)
                uses[kernel] = _uses(call.artifact)

        while (call := one_that_waits(self.gm, self.plan.calls)) is not None:
            self.plan.calls = [c for c in self.plan.calls if c is not call]
            self.plan.refusals.append(Refusal(call.nodes, "it would wait for what is computed from its own results"))
        self.plan.memory = plan_memory(program, self.hints, uses)
        return self.plan

    def _fused(self, program: ProgramOp) -> Fused:
        """The passes up to fusion, which leaves kernels in the program."""
        self.plan.program_text = print_module(program)
        _return_values(self.imported)
        values = dict.fromkeys(v.value for v in self.imported.views.values())
        self.held = {v for v in values if self._aliases(v)}

        known_indices(program)
        self._show("known-indices")

        canonicalise_program(program)
        self._show("canonicalise")

        self.plan.rewrites.extend(("finite-masks", what, identity) for what, identity in finite_masks(program))
        self._show("finite-masks")

        split = split_segments(program)
        self.plan.rewrites.extend(("split-segments", what, identity) for what, identity in split)
        self._show("split-segments")

        self.plan.rewrites.extend(("needed-reads", what, identity) for what, identity in needed_reads(program))
        self._show("needed-reads")

        fused = fuse_program(
            program,
            self.target,
            self.hints,
            self._exists,
            self._readable,
            always=self.options.fuse == "always",
            complete=self.options.remainder == "kernels",
            options=self.options.loops,
            known=self.known,
        )
        self.plan.refusals = fused.refusals
        self._show("fuse")
        return fused

    def _show(self, stage: str) -> None:
        if not (self.options.print_after_all or log.isEnabledFor(logging.DEBUG)):
            return
        text = print_module(self.imported.program)
        shown = "(unchanged)" if text == self.previous else text
        self.previous = text
        log.log(logging.INFO if self.options.print_after_all else logging.DEBUG, "after %s:\n%s", stage, shown)

    # --- one kernel ----------------------------------------------------------------------------------------------

    def _lower(self, kernel: KernelOp, fused: Fused) -> Call | Refused:
        """count passes, derive online forms, schedule, emit."""
        trial = fused.trials[kernel]
        inputs: list[tuple[fx.Node, tile.BufferType]] = []
        for n in trial.reads:
            value = kernel.inputs[n]
            origin = fused.origin.get(value, value)
            found = self.written.get(origin) or self._anchor_of(origin)
            if found is None:
                return Refused("an input has no node of the graph with an affine layout")
            node, exprs = found
            inputs.append((node, self._input_layout(node, value, exprs)))
        outputs: list[tuple[fx.Node, tile.BufferType, AccessMap]] = []
        for result, inner in zip(kernel.results, kernel.returned, strict=True):
            found = self.written.get(fused.origin[result])
            if found is None:
                return Refused("an output has no node of the graph with an affine layout")
            node, exprs = found
            ranks = inner.owner.out_ranks(inner.index)  # pyright: ignore
            rename = {symbols.symbol(f"v{n}"): symbols.symbol(r) for n, r in enumerate(ranks)}
            access = AccessMap.of([symbols.substitute(e, rename) for e in exprs])
            outputs.append((node, self._node_layout(node), access))
        layouts = tuple(b for _, b in inputs), tuple((b, a) for _, b, a in outputs)
        artifact = self.made.get((id(trial), *layouts))
        if artifact is None:
            artifact = self.made[(id(trial), *layouts)] = self._artifact(kernel, trial, *layouts)
        if isinstance(artifact, Refused):
            return artifact
        if unknown := [name for name in artifact.sizes if name not in self.imported.sizes]:
            return Refused(f"its size {unknown[0]} depends on data")
        for certificate in artifact.facts["certificates"]:
            self.plan.rewrites.append(("derive-online", kernel.sym_name.data, certificate))
        self.plan.hbm_bytes_unfused += trial.unfused_bytes
        sizes = {name: self._size_source(name) for name in artifact.sizes}
        names = tuple(note(kernel, "nodes").split())
        return Call(artifact, [n for n, _ in inputs], [n for n, _, _ in outputs], sizes, names)

    def _artifact(
        self,
        kernel: KernelOp,
        trial: Trial,
        inputs: Sequence[tile.BufferType],
        outputs: Sequence[tuple[tile.BufferType, AccessMap]],
    ) -> KernelArtifact | Refused:
        """The printed kernel for these layouts.  The first of equal kernels takes over what fusion made to price it."""
        counted = count_kernel(kernel)
        if id(trial) in self.adopted:
            repair_kernel(kernel, trial.stream, self.target, self.options.loops.lazy)
        else:
            self.adopted.add(id(trial))
            _adopt(kernel, trial)
        verify(kernel)
        scheduled = laid_out(trial.scheduled, kernel, inputs, outputs)
        if scheduled is None:
            scheduled = schedule_kernel(kernel, self.target, inputs, outputs, self.hints, options=self.options.loops)
        if isinstance(scheduled, Refused):
            return scheduled
        said: dict[str, Any] = {}
        if self.configure is not None:
            name = note(kernel, "name") or f"k{len(self.printed)}"
            tunable = Tunable(
                name, kernel, self.target, inputs, outputs, self.hints, self.options.loops, counted, scheduled
            )
            if (found := self.configure(tunable)) is not None:
                scheduled, said = _configured(tunable, found, scheduled)
        steps = [s.scheduled for s in (scheduled.before,) if s is not None] + [scheduled]
        steps += [s.scheduled for s in (scheduled.merge,) if s is not None]
        for step in steps:
            verify(step.kernel)
        key = "\n".join(print_module(anonymous(step.kernel)) for step in steps)
        if key not in self.printed:
            name = note(kernel, "name") or f"k{len(self.printed)}"
            try:
                self.printed[key] = print_kernel(name, kernel, scheduled, counted, self.target, said)
            except NotPrintable as stop:
                return Refused(str(stop))
        return self.printed[key]

    # --- the graph around a kernel -------------------------------------------------------------------------------

    def _anchor_results(self, fused: Fused) -> None:
        """Which nodes the kernels write: what reads a result reads the same node, or that would be left to compute it again."""
        for kernel in fused.kernels:
            members = {n for op in fused.members[kernel] for n in self.imported.nodes_of.get(op, [])}
            for value in (fused.origin[result] for result in kernel.results):
                if (found := self._output_anchor(value, members)) is not None:
                    self.written[value] = found

    def _aliases(self, value: SSAValue) -> list[tuple[fx.Node, tuple[sympy.Expr, ...]]]:
        """The nodes that hold exactly the elements of `value`, with their dimensions as affine expressions over it."""
        if value not in self.aliases:
            found = self.aliases[value] = []
            variables = [f"v{n}" for n in range(len(value.type.dims))]  # pyright: ignore
            for node in self.views_of.get(value, []):
                inverse = self.imported.views[node].inverse
                if inverse is not None and all(symbols.affine(e, variables) is not None for e in inverse):
                    found.append((node, inverse))
        return self.aliases[value]

    def _exists(self, value: SSAValue) -> bool:
        """Whether some node of the graph holds the value."""
        return value in self.held

    def _readable(self, value: SSAValue) -> bool:
        """Whether a kernel can read the value from some node of the graph."""
        return self._exists(value) or self._repeated(value) is not None

    def _anchor_of(self, value: SSAValue):
        aliases = self._aliases(value)
        return aliases[0] if aliases else self._repeated(value)

    def _repeated(self, value: SSAValue) -> tuple[fx.Node, tuple[sympy.Expr, ...]] | None:
        """A node that holds `value` once for each index of dimensions that the value lacks, and index 0 of those.

        Positions that were expanded over a batch are one row, of which what is computed of them is one row too.
        """
        dims = value.type.dims  # pyright: ignore
        for node in self.views_of.get(value, []):
            shape = node.meta["val"].shape
            index = [sympy.Integer(0)] * len(shape)
            for n, e in enumerate(self.imported.views[node].access.data):
                k = next((k for k in range(len(shape)) if e == dim(k)), None)
                if k is not None and index[k] == 0 and self.imported_size(shape[k]) == dims[n]:
                    index[k] = dim(n, "v")
                elif not (dims[n] == 1 and e == 0):
                    break
            else:
                return node, tuple(index)
        return None

    def _output_anchor(self, value: SSAValue, members: set[fx.Node]):
        """The last node that holds the value such that everything outside the kernel is reached through it."""
        aliases = self._aliases(value)
        all_views = self.views_of.get(value, [])
        inner = members | set(all_views)
        best = None
        for node, exprs in aliases:
            below = _descendants(node, set(all_views))
            outside = [n for n in all_views if n not in below and any(u not in inner for u in n.users)]
            if not outside:
                best = (node, exprs)
        return best

    def _node_layout(self, node: fx.Node) -> tile.BufferType:
        fake = node.meta["val"]
        size = self.imported_size
        return tile.BufferType.of([size(n) for n in fake.shape], [size(n) for n in fake.stride()], _element(fake.dtype))

    def _input_layout(self, node: fx.Node, value: SSAValue, exprs) -> tile.BufferType:
        """The layout of an SSA value that lives in `node`'s tensor: strides follow from the node's."""
        fake = node.meta["val"]
        kind = value.type
        strides = []
        for n in range(len(kind.dims)):  # pyright: ignore
            v = symbols.symbol(f"v{n}")
            strides.append(
                sum(
                    (self.imported_size(s) * e.diff(v) for s, e in zip(fake.stride(), exprs, strict=True)),
                    sympy.Integer(0),
                )
            )
        return tile.BufferType.of(kind.dims, strides, kind.element_type)  # pyright: ignore

    def imported_size(self, value: Any) -> sympy.Expr:
        return size(value, self.size_names)

    def _size_source(self, name: str):
        source = self.imported.sizes[name]
        placeholders = [n for n in self.gm.graph.nodes if n.op == "placeholder"]
        node = placeholders[source.placeholder]
        return node if source.dim is None else (node, source.dim)


def _configured(tunable: Tunable, found: Configured, default: Scheduled) -> tuple[Scheduled, dict[str, Any]]:
    """The kernel in the configuration that was found for it, if it is one of its own; and what the report says of that."""
    said = {"parameters": found.note, "tuning": dict(found.about)}
    if found.variant is None:
        return default, said
    made = tunable.scheduled(found.variant, found.values)
    if isinstance(made, Refused):
        return default, said | {"parameters": f"cost model; what the tuning cache has does not fit: {made.reason}"}
    return made, said


def _uses(artifact: KernelArtifact) -> Uses:
    facts = artifact.facts
    return Uses(facts.get("workspace_bytes", 0), tuple(map(tuple, facts["in_place"])))


def _return_values(imported: Imported) -> None:
    """Let the program return the values behind its outputs: the views in front of them stay in the graph."""
    block = imported.program.body.block
    last = block.last_op
    assert last is not None
    values = [o.view.value for o in imported.outputs if o.view is not None]
    copies = dict.fromkeys(v.owner for v in last.operands)  # one may be returned twice
    last.detach()
    last.erase()
    imported.program.finish(*values)
    for op in copies:
        if hasattr(op, "attributes") and "copy" in op.attributes and not any(r.first_use for r in op.results):  # pyright: ignore
            op.detach()  # pyright: ignore
            op.erase()  # pyright: ignore


def _descendants(node: fx.Node, within: set[fx.Node]) -> set[fx.Node]:
    found, pending = {node}, [node]
    while pending:
        for user in pending.pop().users:
            if user in within and user not in found:
                found.add(user)
                pending.append(user)
    return found


def _adopt(kernel: KernelOp, trial: Trial) -> None:
    """Make of a kernel what was repaired to price it."""
    kernel.operands = [kernel.inputs[n] for n in trial.reads]
    kernel.detach_region(kernel.body)
    kernel.add_region(trial.kernel.body.clone())
    kernel.attributes.update({k: v for k, v in trial.kernel.attributes.items() if k not in kernel.attributes})


def _element(dtype: torch.dtype):
    return element_type(dtype)


__all__ = ["Call", "Environment", "Layout", "Options", "Plan", "pick_target", "plan_graph"]
