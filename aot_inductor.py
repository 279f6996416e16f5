"""AOTInductor with our kernels inside: a model as one `.pt2`.

fusecade.aot_inductor(model, (x,), "model.pt2");  run = fusecade.load_aot_inductor("model.pt2");  out = run(x)

Triton kernels are compiled into the package like Inductor's own.  Those that cannot be (`assembly/visible_kernels.py`), and
kernels for the CPU, come along as text in its metadata, and are called through the operator `fusecade::call`: where such a
package runs there has to be Python with Fusecade.  A package is native code; load only what you trust.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .assembly.build import make_plan, place_kernels
from .assembly.devices import check_device, devices_of, hints_of
from .assembly.exported import decomposed, with_graph
from .assembly.remainder import failure_of, inductor_problem, settings_of
from .assembly.splice import Placed, splice
from .assembly.titles import title_of
from .assembly.visible_kernels import LAYOUT, Hidden, all_hidden, log_hidden, shown
from .codegen.artifact import KernelArtifact, Layout
from .driver import Environment, Options, Plan, check_parameters, pick_target, tuned_for
from .errors import InvalidPackage, MissingTool
from .report import Report, report_of
from .runtime.cache import read_artifact
from .runtime.files import usable_folder
from .runtime.loaded import load
from .runtime.operator import Entry, register

log = logging.getLogger("fusecade")

METADATA = "fusecade"  # the name under which a package has our kernels
FORMAT = 1


def aot_inductor(
    model: torch.nn.Module | torch.export.ExportedProgram,
    args: Sequence[Any] = (),
    path: str | Path | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    target: str | None = None,
    tune: str = "off",
    fuse: str = "by_cost",
    skip: str = "by_cost",
    lazy: str = "off",
    parameters: Mapping[str, int] | None = None,
    mode: str = "default",
    inductor: Mapping[str, Any] | None = None,
    strict: bool = False,
    on_report: Callable[[Report], object] = lambda report: None,
) -> Path:
    """Compile a model ahead of time, and return the path of the package.

    model: a module, or what `torch.export` made of one; args, kwargs, dynamic_shapes: of `torch.export.export`, for a module.
    path: of the package, by default a file in Inductor's cache.  target, tune, fuse, skip, lazy, parameters: as in
    `fusecade.compile`.  mode, inductor: a mode of `torch.compile`, and settings of Inductor by name.  strict: raise what makes
    a part go without kernels.  on_report: is told what was fused.

    Raises MissingTool without a C++ compiler, and InvalidArgument for an option that there is not.
    """
    settings = settings_of(mode, inductor or {})
    if inductor_problem() is not None:
        raise MissingTool("a C++ compiler", needed_for="AOTInductor", install="install g++, or name one in CXX")
    environment = Environment.read()
    options = Options(
        target or "auto", "inductor", tune, fuse, strict, skip=skip, lazy=lazy, parameters=parameters or {}
    )
    if not isinstance(model, torch.export.ExportedProgram):
        with torch.no_grad():
            model = torch.export.export(model, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes)
    program = decomposed(model)
    graph = program.graph_module
    devices = devices_of([node.meta.get("val") for node in graph.graph.find_nodes(op="placeholder")])
    chosen = pick_target(options.target, devices)
    check_parameters(options, chosen)
    check_device(chosen, devices, environment.interpret)
    folder, fallbacks = environment.cache_dir, list[tuple[str, str]]()
    plan = make_plan(
        graph, chosen, options, folder, fallbacks, hints=hints_of(graph),
        tuning=tuned_for(environment, chosen, options.tune), scripts=environment.reproductions,
    )  # fmt: skip
    placed = place_kernels(plan, options, folder, fallbacks, scripts=environment.reproductions)
    on_report(report_of(plan, fallbacks))
    made, hidden = None, list[Hidden]()
    try:
        seen, hidden = shown(placed, ahead=True)
        if any(one.visible for one in seen):
            made = _package(program, plan, seen, path, settings)
    except Exception as error:
        log.debug("AOTInductor failed with kernels in its program", exc_info=True)
        hidden = all_hidden(placed, hidden, failure_of(error, "AOTInductor"))
    if made is None:
        made = _package(program, plan, placed, path, settings)
    if chosen.kind != "cpu":
        log_hidden(hidden)
    return made


def _package(
    program: torch.export.ExportedProgram,
    plan: Plan,
    placed: Sequence[Placed],
    path: str | Path | None,
    settings: Mapping[str, Any],
) -> Path:
    """The package; kernels that AOTInductor is not shown go into its metadata."""
    kernels = {
        one.entry.key: {
            "artifact": replace(one.call.artifact, facts={}).to_json(),
            "given": [asdict(layout) for layout in one.entry.kernel.given],
            "device": one.entry.device.type,
            "title": title_of(one.call),
        }
        for one in placed
        if not one.visible
    }
    text = json.dumps({"format": FORMAT, "kernels": kernels}, sort_keys=True)
    made = torch._inductor.aoti_compile_and_package(
        with_graph(program, splice(plan.gm, placed)),
        package_path=str(path) if path is not None else None,
        inductor_configs={**settings, **LAYOUT, "aot_inductor.metadata": {METADATA: text}},
    )
    return Path(made)


def load_aot_inductor(path: str | Path, **named: Any) -> Any:
    """What `torch._inductor.aoti_load_package` gives, with the package's kernels loaded.

    named: passed on to it.  Raises InvalidPackage where the kernels in it are none that this version knows.
    """
    model = torch._inductor.aoti_load_package(str(path), **named)
    folder = usable_folder(Environment.read().cache_dir)
    try:
        about = json.loads(model.get_metadata().get(METADATA, '{"format": 1, "kernels": {}}'))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}")
        entries = [_entry(key, kernel, folder) for key, kernel in about["kernels"].items()]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidPackage(f"the kernels in {path} are none that this version of Fusecade knows: {error}") from error
    model.fusecade_entries = entries  # they stay as long as the model does
    return model


def _entry(key: str, about: Mapping[str, Any], folder: Path) -> Entry:
    artifact: KernelArtifact = read_artifact(about["artifact"])
    given = [Layout(tuple(x["shape"]), tuple(x["strides"]), x["dtype"]) for x in about["given"]]
    kernel = load(artifact, folder / "kernels", given)
    return register(Entry(key, kernel, None, torch.device(about["device"]), strict=True, title=str(about["title"])))


__all__ = ["aot_inductor", "load_aot_inductor"]
