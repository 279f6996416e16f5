"""Tuning through the compiler: measured or predicted, kept, found again by what compiles next, and never believed blindly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data.tuned_program import SHAPES, attend

import fusecade
from fusecade import api, driver, torch_backend
from fusecade.assembly import tuning as tuning_module
from fusecade.assembly.devices import Machine, TimedDevice
from fusecade.assembly.tunable import Tunable, bucket
from fusecade.assembly.tuned import Tuned
from fusecade.assembly.tuning import Tuner, options_of, settled
from fusecade.assembly.tuning_worker import Case, against
from fusecade.autotune.cache import Decision
from fusecade.autotune.claims import claim
from fusecade.autotune.records import MEASURED, Configuration, Sample
from fusecade.autotune.search import Result
from fusecade.autotune.timing import Verdict
from fusecade.autotune.workers import Pool
from fusecade.codegen.artifact import KernelArtifact
from fusecade.driver import Environment, Options, machine_of, plan_graph
from fusecade.errors import InvalidArgument
from fusecade.frontend.capture import capture
from fusecade.ir.target import get_target
from fusecade.passes.configured import TuningSpace
from fusecade.runtime.files import private_folder

CPU, SM90 = get_target("cpu"), get_target("sm_90")
META = [torch.empty(s, device="meta") for s in SHAPES]


def turned(q, k, v):
    return attend(q, k, v).transpose(0, 1).contiguous()


def merged(q, k, v):
    return attend(q, k, v).transpose(0, 1).reshape(q.shape[1], -1)


def columns(q, k, v):
    s = q @ k.transpose(-1, -2)
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FUSECADE_CACHE_URL", raising=False)
    return tmp_path / "cache"


def tunables(fn=attend, shapes=SHAPES, target=CPU, dtype=torch.float32, **options) -> list[Tunable]:
    """The kernels of a function as a tuner sees them."""
    found: list[Tunable] = []
    captured = capture(fn, [torch.empty(s, dtype=dtype, device="meta") for s in shapes], {}, None)
    plan_graph(captured.gm, target, Options(target=target.name, **options), configure=found.append)
    return found


def compiled(**options):
    tensors = [torch.randn(s, generator=torch.Generator().manual_seed(n)) for n, s in enumerate(SHAPES)]
    kernel = fusecade.compile(attend, tensors, target="cpu", remainder="eager", strict=True, **options)
    torch.testing.assert_close(kernel(*tensors), attend(*tensors))
    (one,) = kernel.report.kernels
    return one


def decide(folder: Path, values: dict[str, int] | None = None, shapes=SHAPES) -> Configuration:
    """Puts a decision for the kernel into the cache: its cheapest other configuration, or one with these values."""
    (tunable,) = tunables(shapes=shapes)
    assert isinstance(tunable.space, TuningSpace)
    variant, parameters = next(iter(tunable.space.variants.items()))
    given = {n: v[min(1, len(v) - 1)] if n == "BI" else v[0] for n, v in parameters.items()} | (values or {})
    tuned = Tuned.of(folder / "tuning", None, machine_of(CPU), make=True)
    key, configuration = tuned.keys(tunable.subject)[0], Configuration.of(variant, given)
    assert tuned.cache.decide(
        key, Decision(key, configuration, MEASURED, 100.0, 112.0, tuned.cache.versions, time.time())
    )
    return configuration


class TestSubject:
    def test_equal_kernels_of_other_sizes_are_of_one_family(self):
        (a,), (b,) = tunables(), tunables(shapes=[(2, 600, 64)] * 3)
        assert a.subject.program == b.subject.program
        assert dict(a.subject.sizes)["i"] == 512 and dict(b.subject.sizes)["i"] == 640

    def test_another_program_dtype_or_layout_is_another_subject(self):
        (a,) = tunables(target=SM90, dtype=torch.float16)
        others = [
            tunables(lambda q, k, v: torch.softmax((q @ k.transpose(-1, -2)).relu(), -1) @ v, target=SM90, dtype=torch.float16),
            tunables(target=SM90, dtype=torch.bfloat16),
            tunables(lambda q, k, v: attend(q, k, v.transpose(0, 1)), shapes=[*SHAPES[:2], (512, 2, 64)], target=SM90,
                     dtype=torch.float16),
            tunables(target=SM90, dtype=torch.float16, skip="never"),
            tunables(target=SM90, dtype=torch.float16, parameters={"num_warps": 8}),
        ]  # fmt: skip
        subjects = {a.subject, *(t.subject for found in others for t in found)}
        assert len(subjects) == 1 + len(others)

    def test_buckets_are_exact_where_small_and_four_to_a_doubling_above(self):
        assert [bucket(n) for n in (1, 7, 16)] == [1, 7, 16]
        assert {bucket(n) for n in range(1025, 2049)} == {1280, 1536, 1792, 2048}
        assert all(n <= bucket(n) <= 1.25 * n for n in range(1, 5000))


class TestUse:
    def test_a_decision_is_used_and_said(self, folder: Path):
        before = compiled()
        assert before.parameters == "cost model"
        wanted = decide(folder)
        after = compiled()  # the plan in the cache is of before
        assert after.params == dict(wanted.values) != before.params
        assert after.parameters == "tuned here, 12 % faster"
        assert "k0: parameters: tuned here, 12 % faster" in str(api.explain(attend, *META, target="cpu"))

    def test_what_does_not_fit_is_left_with_the_reason(self, folder: Path):
        before = compiled()
        decide(folder, {"BI": 7})
        after = compiled()
        assert after.params == before.params
        assert after.parameters.startswith("cost model; what the tuning cache has does not fit:")
        made = compiled()  # and the plan that says so is kept
        assert made.parameters == after.parameters

    def test_sizes_nearby(self, folder: Path):
        wanted = decide(folder, shapes=[(2, 640, 64)] * 3)
        after = compiled()
        assert after.parameters == "tuned here, 12 % faster, for sizes nearby"
        assert after.params["BI"] == dict(wanted.values)["BI"]

    def test_other_versions_are_said(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("fusecade.assembly.tuned.triton_version", lambda: "1.0")
        from fusecade.assembly import tuned

        tuned._session.cache_clear()
        decide(folder)
        tuned._session.cache_clear()
        monkeypatch.undo()
        monkeypatch.setenv("FUSECADE_CACHE_DIR", str(folder))
        assert "triton 1.0 when tuned" in compiled().parameters

    def test_a_lookup_is_quick(self, folder: Path):
        decide(folder)
        (tunable,) = tunables()
        tuned, subject = Tuned.of(folder / "tuning", None, machine_of(CPU)), tunable.subject
        best = min(_seconds(lambda: tuned.decision(subject)) for _ in range(200))
        assert best < 200e-6  # two or three lookups of 10 us, on a loaded machine


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


USE = """
import json, sys, torch, fusecade
from tuned_program import attend, SHAPES
k = fusecade.compile(attend, [torch.randn(s) for s in SHAPES], target="cpu", remainder="eager", strict=True)
(one,) = k.report.kernels
print(json.dumps([one.parameters, dict(one.params), sorted({"optuna", "sqlalchemy", "alembic"} & set(sys.modules))]))
"""


class TestTune:
    def test_tune_and_use_it_in_another_process(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        outcome = api.tune(attend, *META, target="cpu", sampler="random", trials=3, seconds=20).outcomes[0]
        result = outcome.result
        assert result is not None and result.kind == "measured" and result.trials >= 3
        assert {s.state for s in result.samples} == {"measured"}
        again = api.tune(attend, *META, target="cpu", sampler="random", trials=3, seconds=20)
        assert again.outcomes == () and again.report.kernels[0].parameters.startswith("tuned here")

        data = Path(__file__).parent.parent / "data"
        code = f"import sys; sys.path[:0] = [{str(data)!r}]\n{USE}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        said, params, imported = json.loads(done.stdout.splitlines()[-1])
        assert said.startswith("tuned here") and params == dict(result.winner.values) and imported == []

    def test_a_candidate_that_is_wrong_is_recorded_as_that(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "from fusecade.assembly import tuning_worker as w\n"
            "load, first = w.load, []\n"
            "def broken(artifact, folder):\n"
            "    kernel = load(artifact, folder); first.append(artifact.fingerprint)\n"
            "    run = kernel.launch\n"
            "    def launch(tensors, sizes):\n"
            "        run(tensors, sizes); tensors[-1].view(-1)[7] += 1\n"
            "    if artifact.fingerprint != first[0]: kernel.launch = launch\n"
            "    return kernel\n"
            "w.load = broken; sys.exit(w.main())"
        )
        monkeypatch.setattr(tuning_module, "worker_command", lambda variables: [sys.executable, "-c", code])
        (outcome,) = api.tune(attend, *META, target="cpu", sampler="random", trials=3, seconds=20).outcomes
        assert outcome.result is not None
        states = [s.state for s in outcome.result.samples]
        assert states[0] == "measured" and set(states[1:]) == {"wrong"} and len(states) == 3
        assert all("off by" in s.note for s in outcome.result.samples[1:])
        assert outcome.result.winner == outcome.result.samples[0].configuration

    def test_offline_for_a_gpu(self, folder: Path):
        given = [torch.empty((2, 64, 64), dtype=torch.float16, device="meta")] * 3
        (outcome,) = api.tune(attend, *given, target="sm_90", offline=True, trials=3).outcomes
        assert outcome.result is not None and outcome.result.kind == "predicted"
        assert outcome.result.trials == 3
        for sample in outcome.result.samples:
            assert sample.state == "predicted" and sample.resources["registers"] > 0, sample
            assert 0 < sample.resources["occupancy_percent"] <= 100
        report = api.explain(attend, *given, target="sm_90", compile_binaries=False)
        assert report.kernels[0].parameters == "predicted offline"

    @pytest.mark.parametrize(("us", "winner"), [(99.0, "default"), (90.0, "other")])
    def test_prices_that_are_all_but_the_same_decide_nothing(self, us: float, winner: str):
        default, other = (
            Sample(Configuration.of(n, {}), "predicted", predicted_us=t) for n, t in (("default", 100.0), ("other", us))
        )
        verdict = Verdict(True, "by its prediction")
        found = Result(other.configuration, other, default, verdict, False, "predicted", (), "trials", 2, 1.0, 0.0)
        assert settled(found).winner.variant == winner

    def test_what_was_predicted_is_where_a_measured_run_starts(self, folder: Path):
        api.tune(attend, *META, target="cpu", offline=True, trials=4)
        (tunable,) = tunables()
        tuner = Tuner.of(folder / "tuning", None, machine_of(CPU), options_of(), folder)
        known = tuner._known(tunable.subject)
        assert len(known) == 4 and {s.state for s in known} == {"predicted"}
        assert tuner._to_be_tuned(tunable.subject)

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        given = [torch.empty((8, 1024, 64), dtype=torch.float16, device="meta")] * 3
        (outcome,) = api.tune(attend, *given, target=driver.pick_target("auto").name, trials=6, seconds=60).outcomes
        assert outcome.result is not None and outcome.result.kind == "measured"
        assert {s.state for s in outcome.result.samples} <= {"measured", "pruned"}
        tensors = [torch.randn(8, 1024, 64, dtype=torch.float16, device="cuda") for _ in range(3)]
        kernel = fusecade.compile(attend, tensors, strict=True)
        assert kernel.report.kernels[0].parameters.startswith("tuned here")
        torch.testing.assert_close(kernel(*tensors), attend(*tensors), rtol=1e-2, atol=1e-2)

    def test_what_another_process_decided_meanwhile_stays_if_it_gains_more(self, folder: Path):
        (tunable,) = tunables()
        tuner = Tuner.of(folder / "tuning", None, machine_of(CPU), options_of(), folder)
        cache, key = tuner.tuned.cache, tuner.tuned.keys(tunable.subject)[0]
        wanted = decide(folder)  # 12 % faster
        mine = Sample(
            Configuration.of(wanted.variant, dict(wanted.values) | {"BI": 64}), MEASURED, us=9.0, default_us=9.5
        )
        default = Sample(Configuration.of(wanted.variant, dict(wanted.values) | {"BI": 256}), MEASURED, us=9.5)
        result = Result(mine.configuration, mine, default, Verdict(True, ""), True, MEASURED, (), "trials", 2, 1.0, 0.0)
        tuner._decide(key, result, time.time() - 60)
        assert (kept := cache.lookup(key)) is not None and kept.configuration == wanted
        tuner._decide(key, result, time.time() + 60)  # it was there before
        assert (kept := cache.lookup(key)) is not None and kept.configuration == mine.configuration

    def test_a_target_that_is_not_here_is_refused(self):
        with pytest.raises(InvalidArgument, match=r"gfx942 is not in this machine\nnext: .*--offline --target gfx942"):
            api.tune(attend, *META, target="gfx942")

    def test_without_being_asked_nothing_is_tuned_or_made(self, folder: Path):
        compiled()
        assert not (folder / "tuning").exists()

    def test_tune_is_an_option_of_compile(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        from fusecade.autotune import options

        monkeypatch.setitem(options.MODES, "quick", options_of(sampler="random", trials=2, seconds=20))
        assert compiled(tune="quick").parameters.startswith("tuned here")
        monkeypatch.setattr(tuning_module, "search", None)  # the second time nothing is searched
        assert compiled(tune="quick").parameters.startswith("tuned here")

    @pytest.mark.slow
    @pytest.mark.usefixtures("fresh_compiler")
    @pytest.mark.parametrize("dynamic", [True, None])
    @pytest.mark.parametrize("training", [False, True])
    def test_of_a_dynamic_length_none_but_the_first_is_tuned_for(
        self, dynamic: bool | None, training: bool, monkeypatch: pytest.MonkeyPatch
    ):
        """One search a kernel while it compiles; then 20 lengths, without another search, plan or graph."""
        from fusecade.autotune import options

        searched: list[str] = []

        def search(*args, **kwargs):
            searched.append("search")
            return tuning_module_search(*args, **kwargs)

        tuning_module_search = tuning_module.search
        monkeypatch.setattr(tuning_module, "search", search)
        monkeypatch.setitem(options.MODES, "quick", options_of(sampler="random", trials=3, seconds=20))
        chosen = {"tune": "quick", "fuse": "always", "remainder": "eager"}
        run = torch.compile(attend, backend="fusecade", dynamic=dynamic, options=chosen)

        def check(length: int) -> None:
            given = [torch.randn(2, length, 16, requires_grad=training) for _ in range(3)]
            for x in given if dynamic is None else ():
                torch._dynamo.mark_dynamic(x, 1)
            results = []
            for fn in (run, attend):
                y = fn(*given)
                results.append([y, *(torch.autograd.grad(y.sum(), given) if training else ())])
            for mine, theirs in zip(*results, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)

        check(200)
        graphs = list(torch_backend.compiled)
        kernels = [c for built in graphs for c in built.plan.calls]
        assert len(graphs) == 1 + training and 1 <= len(searched) <= len(kernels)
        assert all(c.artifact.facts["parameters"].startswith("tuned here") for c in kernels)
        once = len(searched)
        monkeypatch.setattr(torch_backend, "make_plan", None)
        for length in (*range(2, 40, 3), 41, 64, 97, 200, 640, 1025, 777):
            check(length)
        assert len(searched) == once and list(torch_backend.compiled) == graphs


class TestDevices:
    """Of which each is timed on by one process at a time."""

    def test_a_free_one_is_taken_and_the_worker_sees_it_alone(self, folder: Path):
        tuner = Tuner.of(folder / "tuning", None, machine_of(CPU), options_of(), folder)
        tuner.devices = (TimedDevice("gpu-a", (("SEEN", "0"),)), TimedDevice("gpu-b", (("SEEN", "1"),)))
        locks = private_folder(folder / "devices")
        try:
            with claim(locks, ["gpu-a"]), tuner._claimed():
                assert tuner._device == tuner.devices[1]
                echo = "import sys, os; from fusecade.autotune.worker_side import serve; "
                echo += "sys.exit(serve(lambda request: {'seen': os.environ['SEEN']}))"
                worker = [*tuning_module.worker_command(tuner.devices[1].variables)[:-1], echo]
                with Pool(worker, 1) as pool:
                    assert pool.submit({}, 60.0).result().value == {"seen": "1"}
            with tuner._claimed():  # it stays with the one that it has a worker for
                assert tuner._device == tuner.devices[1]
            with claim(locks, ["gpu-b"]), tuner._claimed():
                assert tuner._device == tuner.devices[0]
        finally:
            tuner.close()

    def test_what_is_not_timed_waits_for_nobody(self, folder: Path):
        tuner = Tuner.of(folder / "tuning", None, machine_of(CPU), options_of(), folder, offline=True)
        tuner.devices = (TimedDevice("cpu"),)
        with claim(private_folder(folder / "devices"), ["cpu"]), tuner._claimed():
            assert tuner._device is None

    def test_what_another_process_found_meanwhile_is_not_searched_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        said: list[str] = []
        with ExitStack() as other:
            other.enter_context(claim(private_folder(folder / "devices"), ["cpu"]))

            def wait(why: str) -> None:
                said.append(why)
                decide(folder)
                other.close()

            monkeypatch.setattr(tuning_module, "search", None)
            tuning = api.tune(attend, *META, target="cpu", on_wait=wait)
        assert said == [f"cpu is in use by process {os.getpid()}"] and tuning.outcomes == ()
        assert tuning.report.kernels[0].parameters == "tuned here, 12 % faster"

    def test_gpus_of_one_kind_count_as_they_are_visible(self, monkeypatch: pytest.MonkeyPatch):
        kinds = [("H100", 132, 80), ("A100", 108, 80), ("H100", 132, 80)]
        found = [
            SimpleNamespace(name=name, multi_processor_count=sms, total_memory=gib << 30, uuid=f"u{n}")
            for n, (name, sms, gib) in enumerate(kinds)
        ]
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,GPU-7f")
        machine = Machine(SM90, True, 132, 80 << 30)
        assert driver.timed_devices(machine) == (
            TimedDevice("gpu-u0", (("CUDA_VISIBLE_DEVICES", "4"),)),
            TimedDevice("gpu-u2", (("CUDA_VISIBLE_DEVICES", "GPU-7f"),)),
        )
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert [dict(d.variables)["CUDA_VISIBLE_DEVICES"] for d in driver.timed_devices(machine)] == ["0", "2"]
        del found[1:]
        assert driver.timed_devices(machine) == (TimedDevice("gpu-u0"),)  # as the process sees it
        assert driver.timed_devices(Machine(SM90, False, 132, 0)) == ()
        assert driver.timed_devices(machine_of(CPU)) == (TimedDevice("cpu"),)


class TestCheck:
    def test_rounding_is_allowed_and_more_is_not(self):
        right = torch.randn(100, dtype=torch.float64)
        assert against(right.float(), right, False) is None
        assert against(right.half(), right, False) is None
        assert "off by" in str(against((right + 0.1).half(), right, False))
        assert "not a number" in str(against((right / 0).float(), right, False))
        bare = torch.tensor([1.0, float("inf"), float("nan")], dtype=torch.float64)
        assert against(bare.float(), bare, False) is None
        assert "other places" in str(against(bare.float().flip(0), bare, False))

    def test_integers(self):
        right = torch.arange(10_000)
        assert against(right, right, True) is None
        other = right.clone()
        other[3] += 1
        assert against(other, right, False) is None and "differ" in str(against(other, right, True))
        assert "differ" in str(against(right + 1, right, False))

    def test_the_reference_is_the_float64_interpreter(self, folder: Path):
        self.check_reference(attend, SHAPES, folder)

    @pytest.mark.parametrize("fn", [turned, merged, lambda q, k, v: attend(q[:, :1], k, v), columns])
    def test_results_are_compared_where_the_kernel_puts_them(self, fn, folder: Path):
        """Dimensions in another order, heads in one with features, one of length 1, a result of other ranks beside it."""
        self.check_reference(fn, [(4, 96, 16), (4, 80, 16), (4, 80, 16)], folder)

    def check_reference(self, fn, shapes, folder: Path):
        (tunable,) = tunables(fn, shapes, fuse="always")
        assert isinstance(tunable.space, TuningSpace)
        variant, parameters = next(iter(tunable.space.variants.items()))
        artifact = tunable.artifact(variant, {n: v[0] for n, v in parameters.items()})
        assert isinstance(artifact, KernelArtifact)
        request = {
            "reference": artifact.to_json(),
            "folder": str(folder / "k"),
            "sizes": {},
            "device": "cpu",
            "seed": 0,
            "places": tunable.places,
        }
        case, by_default = Case(request | {"program": tunable.program}), Case(request | {"program": None})
        assert case.wanted[0].dtype == torch.float64 and by_default.wanted[0].dtype == torch.float32
        torch.testing.assert_close(case.wanted[0].float(), by_default.wanted[0], rtol=1e-4, atol=1e-5)
        results = fn(*case.sets[0])
        for result, wanted in zip(results if isinstance(results, tuple) else (results,), case.wanted, strict=True):
            torch.testing.assert_close(result.double(), wanted.reshape(result.shape), rtol=1e-4, atol=1e-5)
        case.check(case.reference)


def test_environment_and_machine(monkeypatch: pytest.MonkeyPatch):
    machine = machine_of(CPU)
    assert machine.present and machine.sms == torch.get_num_threads()
    assert [p.sms for p in machine.places] == [machine.sms, CPU.sms]
    assert Environment.read().cache_dir.name == "cache"
    tuned = driver.tuned_for(Environment.read(), CPU)
    assert isinstance(tuned, Tuned) and tuned.decision(tunables()[0].subject) is None
