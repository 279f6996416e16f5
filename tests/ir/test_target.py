"""The target table: complete, frozen, validated when made, and asked for by name."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import pytest

from fusecade.errors import InvalidArgument, UserError
from fusecade.ir.target import TARGETS, Target, get_target


@pytest.mark.parametrize("name", TARGETS)
def test_a_record_survives_copying_and_pickling(name: str):
    target = get_target(name)
    assert target.name == name
    assert pickle.loads(pickle.dumps(target)) == target
    assert Target(**dataclasses.asdict(target)) == target
    assert hash(dataclasses.replace(target)) == hash(target)


def test_the_table():
    assert list(TARGETS) == ["cpu", "sm_80", "sm_89", "sm_90", "sm_100", "gfx942"]
    assert {t.kind for t in TARGETS.values()} == {"cpu", "cuda", "hip"}
    assert get_target("sm_90").dot_flops("f16") == 989e12
    assert get_target("sm_90").dot_flops("f32") == get_target("sm_90").vector_flops
    assert 290 < get_target("sm_90").ridge("bf16") < 300


@pytest.mark.parametrize("name", ["cuda", "sm90", "", None, ["sm_90"]])
def test_an_unknown_target_lists_the_known_ones(name):
    with pytest.raises(UserError, match="not one of: cpu, sm_80, sm_89, sm_90, sm_100, gfx942"):
        get_target(name)


def test_a_target_is_frozen():
    target = get_target("cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.sms = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="frozen"):
        target.flops["f32"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tpu"}, "kind of target 'sm_80' is 'tpu', which is not one of: cpu, cuda, hip"),
        ({"arch": ""}, "a target has a name and an arch"),
        ({"sms": 0}, "sms of target 'sm_80' is 0; it must be more than 0"),
        ({"hbm_bytes_per_s": float("nan")}, "hbm_bytes_per_s of target 'sm_80' is nan; it must be more than 0"),
        ({"l2_bytes": 1.5}, "l2_bytes of target 'sm_80' is 1.5; it must be an integer"),
        ({"sram_bytes": 1024}, "a program cannot have more SRAM than an SM has"),
        ({"flops": {}}, "target 'sm_80' has no matrix rates"),
        ({"flops": {"int4": 1.0}}, "dtype in flops of target 'sm_80' is 'int4'"),
        ({"flops": {"f16": 0.0}}, "flops['f16'] of target 'sm_80' is 0.0; it must be more than 0"),
        ({"dot_min": (16, 16)}, "dot_min of target 'sm_80' is (16, 16)"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_target_is_validated_when_made(change: dict, message: str):
    with pytest.raises(InvalidArgument) as failure:
        dataclasses.replace(get_target("sm_80"), **change)
    assert message in str(failure.value)


def test_a_dot_of_an_unknown_dtype_is_not_free():
    with pytest.raises(InvalidArgument, match="dtype of a dot is 'f4'"):
        get_target("sm_100").dot_flops("f4")


def test_asking_for_a_target_loads_nothing_heavy():
    code = "import sys, fusecade.ir.target; print([m for m in ('torch', 'xdsl', 'sympy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
