"""Say in one sentence what is missing before an environment is made. Uses no library."""

import importlib.util
import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"Python {version} is not supported: run make with PYTHON=python3.11, 3.12 or 3.13")
if importlib.util.find_spec("ensurepip") is None:
    sys.exit("this Python has no venv module: install it (Debian: apt-get install python3-venv)")
