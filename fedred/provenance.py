"""What made a result: the source files that decide numbers, versions of libraries, the machine."""

import hashlib
import os
import platform
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent
# Changing these changes how results are asked for, named or shown, not the numbers of a run.
NOT_NUMERIC = (
    "__main__.py",
    "allocation.py",
    "citations.py",
    "cli.py",
    "config.py",
    "content.py",
    "documents.py",
    "errors.py",
    "estimate.py",
    "files.py",
    "folder_lock.py",
    "gpu_lease.py",
    "offline.py",
    "papers.py",
    "paths.py",
    "plan.py",
    "progress.py",
    "provenance.py",
    "publish.py",
    "recording.py",
    "reference.py",
    "run_folder.py",
    "run_warnings.py",
    "streams.py",
    "validation.py",
    "yaml_reading.py",
)
LIBRARIES = ("fedred", "torch", "numpy")


def numeric_sources(*parts: str) -> list[Path]:
    """Return the package files that decide a run's numbers; reports and the command line do not.

    Args:
        parts: names of files, to return just these (for a job that uses no others).
    """
    files = [_shown(path) for path in sorted(PACKAGE.rglob("*.py")) if _is_numeric(path)]
    return [path for path in files if path.name in parts] if parts else files


def offline_sources() -> list[Path]:
    """Return the package files that decide what is judged offline from recorded updates."""
    return [
        *numeric_sources(),
        *(_shown(PACKAGE / name) for name in ("offline.py", "recording.py")),
    ]


def report_sources() -> list[Path]:
    """Return the files that decide how tables and figures look, published values with them."""
    sources = [*sorted((PACKAGE / "report").glob("*.py")), PACKAGE / "reference.py"]
    published = PACKAGE.parent / "config" / "reference.yaml"
    return [_shown(path) for path in (*sources, published) if path.exists()]


def _shown(path: Path) -> Path:
    """Return a path relative to the working folder if it lies below: a project may be moved."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _is_numeric(path: Path) -> bool:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] != "report" and str(inside) not in NOT_NUMERIC


@cache
def code_fingerprint() -> str:
    """Return the SHA-256 of all numeric source files, by name and content."""
    digest = hashlib.sha256()
    for path in numeric_sources():
        name = path.absolute().relative_to(PACKAGE)
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"  # imported from a folder


def versions() -> dict[str, str]:
    """Return the versions of Python, of the libraries that compute, and the fingerprint of the code."""
    libraries = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries, "code": code_fingerprint()[:12]}


def cpu_model() -> str:
    """Return the name of the CPU as the kernel tells it, or its architecture."""
    with suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
