"""How much memory this process and its children may still take."""

import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that are free, which a container's limit may restrict; None if the system does not say."""
    found = [free for free in (_free_of_system(), _free_of_container()) if free is not None]
    return min(found, default=None)


def _free_of_system() -> int | None:
    """Return the free memory; where only all of it is known, half of that."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def _free_of_container() -> int | None:
    """Return what the control groups of this process leave; None without a limit."""
    found = []
    for folder in _control_groups():
        for limit_name, usage_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            with suppress(OSError, ValueError):  # a limit of "max" is none
                limit, usage = int((folder / limit_name).read_text()), int((folder / usage_name).read_text())
                found.append(limit - usage + _reclaimable(folder))
    return max(0, min(found)) if found else None


def _control_groups() -> list[Path]:
    """Return the groups of this process with all their parents, of both versions of control groups."""
    folders = [CGROUPS, CGROUPS / "memory"]
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                root = CGROUPS / "memory" if controllers else CGROUPS
                folder = root / path.lstrip("/")
                folders += [folder, *(parent for parent in folder.parents if root in parent.parents)]
    return folders


def _reclaimable(folder: Path) -> int:
    """Return the bytes of cached files, which count as used, and are given up for anything else."""
    with suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        values = {name: int(value) for name, value in (line.split() for line in lines)}
        return max(values.get("inactive_file", 0), values.get("total_inactive_file", 0))
    return 0
