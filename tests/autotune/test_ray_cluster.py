"""`fusecade tune --cluster` on clusters of Ray that these tests start."""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fusecade[cluster]'")

from data.command_line import run

from fusecade import __version__
from fusecade.autotune.cache import open_cache
from fusecade.autotune.cache.codec import read_key
from fusecade.commands import exits
from fusecade.commands.fleet import tune_all
from fusecade.commands.jobs import Job
from fusecade.commands.ray_cluster import RayCluster
from fusecade.errors import UserError

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent.parent / "data" / "fleet_programs.py"
CASE = "2,512,64 2,512,64 2,512,64"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSECADE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("FUSECADE_CACHE_URL", raising=False)
    return tmp_path / "cache"


def test_programs_on_this_machine_and_those_that_die(capsys, tmp_path: Path):
    file = tmp_path / "programs.toml"
    entry = '[[program]]\nfunction = "{}:{}"\ncases = ["{}"]\n'
    names = ("takes_its_parent_along", "dies", "attend")
    file.write_text("".join(entry.format(PROGRAMS, name, CASE) for name in names))
    page = tmp_path / "tuning.html"
    searched = ["--target", "cpu", "--trials", "2", "--sampler", "random", "--budget", "20"]
    status, out, _ = run(capsys, "tune", str(file), *searched, "--cluster", "local", "--json", "--plot", str(page))
    data = json.loads(out)
    assert status == exits.INCOMPLETE
    (row,) = data["kernels"]
    assert row["kind"] == "measured" and row["trials"] == 2 and row["machine"].startswith(socket.gethostname())
    reasons = {failed["program"].rpartition(":")[2]: failed["reason"] for failed in data["failed"]}
    assert reasons.keys() == {"takes_its_parent_along", "dies"} and all(
        r.startswith("crashed: ") for r in reasons.values()
    )
    assert "predicted against measured" in page.read_text()
    # What was found there is what this process finds: the same key, threads included.
    status, out, _ = run(capsys, "tune", f"{PROGRAMS}:attend", "--case", CASE, "--target", "cpu")
    assert status == exits.FINE and "tuned here" in out


@pytest.fixture
def two_machines() -> Iterator[str]:
    """The address of a cluster of two, each of which says that it has a GPU."""
    ray, utils = (importlib.import_module(name) for name in ("ray", "ray.cluster_utils"))
    found = utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1, "resources": {"accelerator_type:X1": 1}}
    )
    found.add_node(num_cpus=2, num_gpus=1, resources={"accelerator_type:X2": 1})
    try:
        yield found.address
    finally:
        ray.shutdown()
        found.shutdown()


def test_two_machines_and_a_database(two_machines: str, folder: Path, postgres_url: str):
    with RayCluster(two_machines) as cluster:
        slots = cluster.slots()
        assert sorted((s.model, s.cpus) for s in slots) == [
            ("1-core CPU", 1), ("2-core CPU", 2), ("X1", 1.0), ("X2", 1.0),
        ]  # fmt: skip
        assert len({s.machine for s in slots}) == 2 and not cluster.elsewhere
        about = {"version": __version__, "place": {"folder": str(folder), "url": postgres_url}}
        search = (("mode", "quick"), ("sampler", "random"), ("trials", 1), ("seconds", 20.0))
        job = Job(f"{PROGRAMS}:attend", tuple(CASE.split()), target="cpu", search=search)
        on_cpus = tune_all(cluster, [job], about)
        assert [(d.task.model, d.failed) for d in sorted(on_cpus, key=lambda d: d.task.model)] == [
            ("1-core CPU", ""),
            ("2-core CPU", ""),
        ]
        with open_cache(folder / "tuning", postgres_url) as cache:
            found = [read_key(k["key"]) for d in on_cpus for k in d.value["kernels"]]
            assert len(found) == 2 and all(cache.samples(key) and cache.lookup(key) for key in found)
        (on_gpus,) = tune_all(cluster, [Job(job.program, job.shapes, target="sm_90")], about)
        assert "X1 is of no use: PyTorch sees no GPU there" in on_gpus.failed
        (other,) = tune_all(cluster, [job], {**about, "version": "0"})[:1]
        assert other.failed == f"invalid: this machine has Fusecade {__version__}, and 0 asks"


def test_a_cluster_that_is_not_there():
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        RayCluster("127.0.0.1:1")
