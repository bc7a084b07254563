import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import metaaligner_lite
from metaaligner_lite.cli import doctor
from metaaligner_lite.llama import machine, tune
from metaaligner_lite.llama.library import library

PACKAGE = Path(metaaligner_lite.__file__).parent


def imports(root: Path) -> dict[str, set[str]]:
    """Which modules of a package each one imports, inside functions too; types alone do not count."""
    paths = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    found = {}
    for name, path in paths.items():
        package = name.removesuffix(".__init__").split(".") if path.stem == "__init__" else name.split(".")[:-1]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
            if getattr(block.test, "id", "") == "TYPE_CHECKING":
                block.body = []
        found[name] = set()
        for node in [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            source = ".".join(part for part in base if part)
            for alias in node.names:  # a module of that package, or a name in its __init__ or in the module itself
                wanted = (f"{source}.{alias.name}", f"{source}.{alias.name}.__init__", source, f"{source}.__init__")
                found[name].add(next(module for module in wanted if module in paths))
    return found


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter(imports(PACKAGE)).static_order())


def test_a_circle_would_be_found(tmp_path):
    package = tmp_path / "p"
    (package / "sub").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "from .sub import b\n",
        "sub/__init__": "",
        "sub/b": "def f():\n    from ..a import g\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    with pytest.raises(CycleError):
        list(TopologicalSorter(imports(package)).static_order())
    (package / "sub" / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a import g\n"
    )
    list(TopologicalSorter(imports(package)).static_order())


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder that looks like / to `machine`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "0::/a/b\n"
V1 = "12:cpu,cpuacct:/docker/x\n3:cpuset:/\n0::/\n"


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        # Nested groups: the least counts, wherever it stands; a group beside them does not.
        (
            {"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "250000 100000", "sys/fs/cgroup/a/cpu.max": "max 1"},
            2.5,
        ),
        (
            {"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "max 9", "sys/fs/cgroup/a/cpu.max": "300000 100000"},
            3.0,
        ),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/cpu.max": "100000 50000",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/c/cpu.max": "100000 100000",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        # Version 1, by either name of the mount, seen from the host and from inside the container.
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
            },
            4.0,
        ),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000"}, None),
        # The controller of version 1 beside the groups of version 2.
        (
            {
                "proc/self/cgroup": "1:cpu:/x\n0::/y\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/unified/y/cpu.max": "max 100000",
            },
            2.0,
        ),
        *(
            ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": damaged}, None)
            for damaged in (
                "",
                "max",
                "x y",
                "0 0",
                "-1 100000",
                "200000",
                "1 2 3",
                "200000 -5",
                "²0 1",
                "9" * 5000 + " 1",
            )
        ),
        *(
            ({"proc/self/cgroup": damaged, "sys/fs/cgroup/cpu.max": "200000 100000"}, None)
            for damaged in ("", "\n\n", "12:cpuset:/\n")
        ),
    ],
)
def test_the_quota_of_control_groups(tmp_path, files, granted):
    assert machine.quota(tree(tmp_path, files)) == granted


def test_what_cannot_be_read_is_no_quota(tmp_path):
    root = tree(tmp_path, {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max/a-folder": ""})
    (root / "sys/fs/cgroup/cpu.max").write_bytes(b"\xff\xfe 1")
    assert machine.quota(root) is None
    (root / "proc/self/cgroup").unlink()
    (root / "sys/fs/cgroup/cpu.max").write_text("200000 100000")
    assert machine.quota(root) is None


@pytest.mark.parametrize(
    ("granted", "threads", "said"),
    [
        ("200000 100000", 2, "2 of 8 cores: the container's quota"),
        ("290000 100000", 2, "2 of 8 cores: the container's quota"),
        ("20000 100000", 1, "1 of 8 cores: the container's quota"),
        ("800000 100000", 8, "all 8 cores"),
        ("6400000 100000", 8, "all 8 cores"),
        ("max 100000", 8, "all 8 cores"),
    ],
)
def test_no_more_threads_than_the_quota(tmp_path, monkeypatch, granted, threads, said):
    monkeypatch.setattr(machine, "_allowed", lambda: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": granted})
    assert (machine.hardware_threads(root), machine.default_threads(root)) == (threads, threads)
    assert machine.threads_said(root) == said


def test_quota_affinity_and_cores_that_are_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    pairs = {f"sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i % 4},{i % 4 + 4}\n" for i in range(8)}
    root = tree(tmp_path, pairs | {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"})

    def found(allowed, granted):
        monkeypatch.setattr(machine, "_allowed", lambda: set(range(allowed)))
        (root / "sys/fs/cgroup/cpu.max").write_text(granted)
        return machine.hardware_threads(root), machine.default_threads(root), machine.threads_said(root)

    assert found(8, "max 100000") == (8, 4, "4: one for each two of 8 that share a core")
    assert found(8, "600000 100000") == (6, 4, "6 of 8 cores: the container's quota")
    assert found(8, "300000 100000") == (3, 3, "3 of 8 cores: the container's quota")
    assert found(3, "600000 100000") == (3, 3, "3 of 8 cores: this process may use no others")


def test_tuning_tries_no_more_threads_than_the_quota(monkeypatch):
    monkeypatch.setattr(machine, "_allowed", lambda: set(range(8)))
    monkeypatch.setattr(machine, "quota", lambda root: None)
    assert max(max(pair) for pair in tune._thread_pairs()) > 2
    monkeypatch.setattr(machine, "quota", lambda root: 2.5)
    assert max(max(pair) for pair in tune._thread_pairs()) == 2


def test_the_doctor_tells_of_quota_and_spinning(monkeypatch):
    monkeypatch.setattr(machine, "_allowed", lambda: set(range(8)))
    monkeypatch.setattr(machine, "quota", lambda root: 2.0)
    library()  # before the environment changes, which is for this test alone
    for name in machine._RESPECTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    facts = doctor.examine()
    assert facts["threads"] == "2 of 8 cores: the container's quota"
    assert facts["spinning"] == "as your environment says (OMP_WAIT_POLICY=passive)"


def test_spinning_is_bounded_unless_the_environment_says_how_threads_wait():
    environment = {"HOME": "/x"}
    assert machine.spinning_said(environment) == "as the library does by itself"
    machine.bound_spinning(environment)
    assert environment == {"HOME": "/x", **machine.SPINNING}
    assert machine.spinning_said(environment) == "bounded (GOMP_SPINCOUNT=1000)"
    machine.bound_spinning(environment)  # a child inherits it
    assert environment == {"HOME": "/x", **machine.SPINNING}


@pytest.mark.parametrize(
    "theirs", [{"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "active"}, {"KMP_BLOCKTIME": "200"}, {"GOMP_SPINCOUNT": ""}]
)
def test_a_users_own_setting_stays(theirs):
    environment = dict(theirs)
    machine.bound_spinning(environment)
    assert environment == theirs
    assert machine.spinning_said(environment).startswith("as your environment says")


LOADS = {
    "llama.cpp": "from metaaligner_lite.llama.library import library; library()",
    "torch": "from mal_train import distributed; distributed.gpus()",
}


@pytest.mark.parametrize("what", ["llama.cpp", pytest.param("torch", marks=pytest.mark.slow)])
def test_openmp_itself_has_read_it(what):
    """GCC's OpenMP tells what it took from the environment when it is loaded; torch brings one of its own."""
    if what == "torch":
        pytest.importorskip("torch")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}

    def told(**more: str) -> set[str]:
        child = subprocess.run(
            [sys.executable, "-c", LOADS[what]],
            capture_output=True,
            text=True,
            check=True,
            env=clean | {"OMP_DISPLAY_ENV": "VERBOSE"} | more,
        )
        return {line.split("=")[1].strip(" '") for line in child.stderr.splitlines() if "GOMP_SPINCOUNT" in line}

    ours = told()
    if not ours:
        pytest.skip(f"this build of {what} has another OpenMP, or none")
    assert ours == {"1000"}
    assert told(GOMP_SPINCOUNT="77") == {"77"}
    assert "1000" not in told(OMP_WAIT_POLICY="active")
