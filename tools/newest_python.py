"""Print the newest Python that pyproject.toml allows and that can be run here. Uses no library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def supported():
    """Return the versions that pyproject.toml allows, the newest first."""
    allowed = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', PROJECT.read_text(), re.M)
    oldest, beyond = map(int, allowed.groups())
    return [f"3.{minor}" for minor in reversed(range(oldest, beyond))]


def installed(version):
    """Return where a version may be: on PATH, or one of pyenv's, whose shims run only if selected."""
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return [*filter(None, [on_path]), *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]


def works(python):
    """Tell whether an interpreter starts and can make environments."""
    try:
        done = subprocess.run([python, "-c", "import ensurepip"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def found():
    """Return the newest interpreter that works, or None."""
    return next(filter(works, (path for one in supported() for path in installed(one))), None)


if __name__ == "__main__":
    python = found()
    if python is None:
        sys.exit(f"no Python that makes environments was found: {', '.join(supported())}")
    print(python)
