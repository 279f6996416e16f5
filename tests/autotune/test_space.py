"""Spaces: what is in them, in which order, and next to what."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecade.autotune.options import MODES, Options
from fusecade.autotune.records import Configuration
from fusecade.autotune.space import Prediction, Space, Variant
from fusecade.errors import InvalidArgument

NAMES = st.sampled_from(["BI", "BJ", "BK", "num_warps", "num_stages", "GROUP"])
VALUES = st.lists(st.integers(0, 512), min_size=1, max_size=4, unique=True)
WALKS = st.dictionaries(st.text("ij grid,", min_size=1, max_size=8), st.dictionaries(NAMES, VALUES, max_size=4))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    return Space.of(draw(WALKS.filter(bool)))


@given(spaces())
def test_it_iterates_over_its_points_once(space: Space):
    points = list(space)
    assert len(set(points)) == len(points) == space.size == len(space)
    assert all(c in space for c in points)
    assert points == list(space) == [space.at(n) for n in range(space.size)]
    assert points[0] == space.default


@given(spaces(), spaces())
def test_what_is_of_another_space_is_not_in_it(space: Space, other: Space):
    assert {c for c in other if c in space} == set(space) & set(other)


@given(spaces())
def test_neighbours_are_of_the_space_and_mutual(space: Space):
    for c in list(space)[:20]:
        near = space.neighbours(c)
        assert c not in near and len(set(near)) == len(near)
        assert all(n in space for n in near)
        assert all(c in space.neighbours(n) for n in near if n.variant == c.variant)


def test_neighbours():
    space = Space.of({"a": {"BI": (64, 16, 32, 128), "num_warps": (4,)}, "b": {"BI": (32, 64), "parts": (8, 4)}})
    found = space.neighbours(Configuration.of("a", {"BI": 64, "num_warps": 4}))
    assert found == [
        Configuration.of("a", {"BI": 32, "num_warps": 4}),
        Configuration.of("a", {"BI": 128, "num_warps": 4}),
        Configuration.of("b", {"BI": 64, "parts": 8}),
    ]
    with pytest.raises(InvalidArgument, match="not in this space"):
        space.neighbours(Configuration.of("a", {"BI": 65, "num_warps": 4}))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Space(()),
        lambda: Space((Variant("a", ()), Variant("a", ()))),
        lambda: Variant("a", (("BI", ()),)),
        lambda: Variant("a", (("BI", (1, 1)),)),
        lambda: Variant("a", (("BI", (1,)), ("BI", (2,)))),
        lambda: Variant("a", (("B I", (1,)),)),
        lambda: Variant("a", (("BI", (True,)),)),
        lambda: Variant("a", (("BI", (1.0,)),)),  # type: ignore[arg-type]
        lambda: Prediction(0.0),
        lambda: Prediction(float("nan")),
        lambda: Options(trials=0),
        lambda: Options(seconds=0),
        lambda: Options(ahead=-1),
        lambda: Options(sampler="tpee"),
    ],
)
def test_what_is_no_space_is_refused(wrong):
    with pytest.raises(InvalidArgument):
        wrong()


def test_there_is_no_point_beyond_the_last():
    space = Space.of({"a": {"BI": (1, 2)}})
    for n in (-1, 2):
        with pytest.raises(IndexError):
            space.at(n)


def test_the_quick_mode_is_quick():
    quick = MODES["quick"]
    assert quick.seconds + quick.candidate_seconds <= 30


def test_optuna_is_imported_by_searching_only():
    modules = (
        "records space statistics timing options pruning residuals stopping knowledge samplers search workers pipeline"
    )
    imports = "; ".join(f"import fusecade.autotune.{name}" for name in modules.split())
    code = f"import fusecade.autotune; {imports}; import sys; print('optuna' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]
