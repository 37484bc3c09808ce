"""Print the dependencies of one extra, one a line, so that a layer can hold them without the code.

python dependencies.py EXTRA   # reads pyproject.toml in the working folder
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extra = project["optional-dependencies"][sys.argv[1]]
print("\n".join([*project["dependencies"], *extra]))  # noqa: T201 - its output is its purpose
