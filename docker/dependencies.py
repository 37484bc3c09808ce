"""Print the dependencies of extras, one a line, so that a layer can hold them without the code.

python dependencies.py EXTRA...   # reads pyproject.toml in the working folder
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
if unknown := [name for name in sys.argv[1:] if name not in extras]:
    sys.exit(f"dependencies.py: no extra {', '.join(unknown)}; there are: {', '.join(extras)}")
found = [*project["dependencies"], *(each for name in sys.argv[1:] for each in extras[name])]
print("\n".join(found))  # noqa: T201 - its output is its purpose
