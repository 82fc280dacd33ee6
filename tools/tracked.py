"""Which files belong to the repository: what git tracks, and what it would track if asked."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked_files(root: Path = ROOT) -> list[Path]:
    """Every file under `root` that git does not ignore, sorted; files deleted but not yet committed are left out."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(root / name for name in set(names) if name and (root / name).is_file())
