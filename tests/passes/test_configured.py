"""A kernel's tuning space, and the kernel in its points: what scheduling chose is one of them, and each has its price."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
import torch
from cases import attention, kmeans
from harness import layouts, program_of

from fusecade.ir.target import get_target
from fusecade.ir.text import print_module
from fusecade.ir.verify import verify
from fusecade.passes.algebra.forms import Refused
from fusecade.passes.canonicalise import canonicalise_program
from fusecade.passes.configured import TuningSpace, scheduled_as, tuning_space
from fusecade.passes.fuse import fuse_program
from fusecade.passes.repair import repair_kernel
from fusecade.passes.schedule import schedule_kernel
from fusecade.passes.scheduled import Scheduled
from fusecade.passes.walk import LoopOptions

CASES = {
    "whole or a loop": (attention, [(4, 1024, 64)] * 3, "cpu"),
    "arguments": (kmeans, [(4096, 64), (512, 64)], "cpu"),
    "parts": (attention, [(1, 16, 64), (1, 16384, 64), (1, 16384, 64)], "sm_90"),
    "shares": (attention, [(5, 2048, 64), (5, 8192, 64), (5, 8192, 64)], "sm_90"),
}


@cache
def kernel_of(name: str):
    fn, shapes, target = CASES[name]
    machine = get_target(target)
    dtype = torch.float32 if target == "cpu" else torch.float16
    program = program_of(fn, [torch.empty(s, dtype=dtype, device="meta") for s in shapes])
    canonicalise_program(program)
    kernel = fuse_program(program, machine, {}).kernels[0]
    repair_kernel(kernel, kernel.streamed, machine)
    return (kernel, machine, *layouts(kernel), {})


@cache
def space_of(name: str) -> TuningSpace:
    space = tuning_space(*kernel_of(name))
    assert isinstance(space, TuningSpace)
    return space


def texts(s: Scheduled) -> list[str]:
    return [print_module(step.kernel) for step in (s, *(m.scheduled for m in (s.before, s.merge) if m is not None))]


@pytest.mark.parametrize("name", CASES)
def test_the_default_is_what_scheduling_chooses(name: str):
    given, space = kernel_of(name), space_of(name)
    variant, parameters = next(iter(space.variants.items()))
    values = {n: v[0] for n, v in parameters.items()}
    chosen, again = schedule_kernel(*given), scheduled_as(*given, None, variant, values)
    assert isinstance(chosen, Scheduled) and isinstance(again, Scheduled)
    assert texts(again) == texts(chosen)
    price = space.predict(variant, values)
    assert price is not None and price.us == pytest.approx(chosen.us)


@pytest.mark.parametrize("name", CASES)
def test_every_point_with_a_price_is_a_kernel_of_that_price(name: str):
    given, space = kernel_of(name), space_of(name)
    for variant, parameters in space.variants.items():
        points = list(itertools.product(*parameters.values()))
        values = [dict(zip(parameters, p, strict=True)) for p in (points[-1], points[len(points) // 2], points[0])]
        for point in values:
            price, made = space.predict(variant, point), scheduled_as(*given, None, variant, point)
            assert (price is None) <= isinstance(made, Refused)
            if isinstance(made, Scheduled):
                verify(made.kernel)
                assert price is not None and price.us == pytest.approx(
                    made.us, rel=0.05
                )  # but for how masks are walked
                parameters_made = dict(made.kernel.parameters)
                assert all(parameters_made.get(n, 0) == v for n, v in point.items())


def test_the_walks_of_a_space():
    walks = {name: list(space_of(name).variants) for name in ("whole or a loop", "parts", "shares")}
    assert [w.count("loop") for w in walks["whole or a loop"]] == [0, 1]
    assert walks["parts"][0].endswith(" parts") and any(not w.endswith("parts") for w in walks["parts"])
    assert any(" 132 shares of " in w for w in walks["shares"])


@pytest.mark.parametrize(
    ("variant", "changes", "why"),
    [
        ("no walk at all", {}, "is no walk"),
        ("{}", {"BI": 7}, "no tile sizes|nothing to walk"),
        ("{}", {"BX": 16}, "has no parameter BX"),
        ("{}", {"num_warps": 4}, "cpu has no launch parameter num_warps"),
        ("{}, k in 1 parts", {}, "1 parts"),
        ("{}, i in 8 parts", {}, "i is not the rank that is streamed"),
        ("{}, 17 shares of k", {}, "17 shares for 2 multiprocessors"),
    ],
)
def test_what_is_no_point_of_the_space_is_refused(variant: str, changes: dict[str, int], why: str):
    given, space = kernel_of("whole or a loop"), space_of("whole or a loop")
    name, parameters = next(iter(space.variants.items()))
    values = {n: v[0] for n, v in parameters.items()} | changes
    found = scheduled_as(*given, None, variant.format(name), values)
    assert isinstance(found, Refused)
    assert re.search(why, found.reason)


def test_what_the_caller_gives_is_not_to_be_chosen():
    given, options = kernel_of("parts"), LoopOptions(launch=(("num_warps", 8),))
    space = tuning_space(*given, options)
    assert isinstance(space, TuningSpace)
    assert not any("num_warps" in parameters for parameters in space.variants.values())
    variant, parameters = next(iter(space.variants.items()))
    values = {n: v[0] for n, v in parameters.items()}
    made = scheduled_as(*given, options, variant, values)
    assert isinstance(made, Scheduled) and made.kernel.parameters["num_warps"] == 8
    other = scheduled_as(*given, options, variant, values | {"num_warps": 4})
    assert isinstance(other, Refused) and "the caller chose 8" in other.reason
