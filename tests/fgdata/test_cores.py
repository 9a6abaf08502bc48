"""The cores and the memory that a process may use: the lowest limit that the system states."""

from pathlib import Path

import pytest

from fgdata import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the control groups, empty; the machine has 96 cores."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "self")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {*range(96)}, raising=False)
    return tmp_path / "cgroup"


def write(folder: Path, **contents: object) -> None:
    """Writes files of a control group; a `_` of a name is a dot for the first, as in cpu.cfs_quota_us."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("pod", "above", "root", "expected"),
    [
        ("max 100000", None, None, 96),
        ("800000 100000", None, None, 8),
        ("max 100000", "250000 100000", None, 3),  # a part of a core counts as one
        ("800000 100000", "max 100000", "400000 100000", 4),  # a container sees its own group as the root
        ("5000 100000", None, None, 1),
        ("20000000 100000", None, None, 96),  # more than the affinity mask
        ("", "nonsense", None, 96),
    ],
)
def test_quotas_of_version_2(groups: Path, pod: str, above: str | None, root: str | None, expected: int):
    (groups.parent / "self").write_text("0::/kubepods/pod7\n")
    write(groups / "kubepods" / "pod7", cpu_max=pod)
    if above is not None:
        write(groups / "kubepods", cpu_max=above)
    if root is not None:
        write(groups, cpu_max=root)
    assert cores.available_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 96), (800_000, 8), (150_000, 2)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("place", ["slurm/uid_7/job_3/step_0", "slurm/uid_7/job_3", "slurm", ""])
def test_quotas_of_version_1(groups: Path, place: str, mount: str, quota: int, expected: int):
    (groups.parent / "self").write_text(f"3:memory:/other\n2:{mount}:/slurm/uid_7/job_3/step_0\n1:name=systemd:/x\n")
    write(groups / mount / place, cpu_cfs_quota_us=quota, cpu_cfs_period_us=100_000)
    assert cores.available_cores() == expected


@pytest.mark.parametrize("place", ["slurm/uid_7/job_3/step_0", "slurm/uid_7/job_3", "slurm", ""])
def test_memory_of_version_1_is_that_of_the_job_or_of_a_group_above(groups: Path, place: str):
    (groups.parent / "self").write_text("9:cpuset:/slurm/uid_7\n4:memory:/slurm/uid_7/job_3/step_0\n0::/user.slice\n")
    machine = cores.memory_limit()
    write(groups / "memory" / "slurm", memory_limit_in_bytes=9223372036854771712)  # the kernel's word for none
    assert cores.memory_limit() == machine
    write(groups / "memory" / place, memory_limit_in_bytes=700_000)
    assert cores.memory_limit() == 700_000


def test_a_group_of_another_controller_or_process_does_not_count(groups: Path):
    (groups.parent / "self").write_text("4:memory:/job_3\n3:cpuacct:/job_3\n0::/user.slice\n")
    machine = cores.memory_limit()
    write(groups / "memory" / "job_4", memory_limit_in_bytes=1000)
    write(groups / "job_3", memory_max=1000, cpu_max="100000 100000")
    write(groups / "cpu" / "job_3", cpu_cfs_quota_us=100_000, cpu_cfs_period_us=100_000)
    assert (cores.memory_limit(), cores.available_cores()) == (machine, 96)


@pytest.mark.parametrize("content", [None, "", "odd\n", "0::/../../outside\n"])
def test_without_control_groups_all_cores_of_the_mask_count(groups: Path, content: str | None):
    if content is not None:
        (groups.parent / "self").write_text(content)
    assert cores.available_cores() == 96
