"""How much memory this machine can give."""

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def free_bytes() -> int:
    """Bytes that can be had without swapping, as the system estimates; half of all memory where it does not say."""
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
