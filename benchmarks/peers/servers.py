"""The servers that are compared: how each is installed, started and asked."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from work import Task

from service.engine.providers import OPENVINO

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
_VENVS = HERE / ".venvs"

OURS = "resnet-serve"
OURS_AUTO = f"{OURS}-auto"
"""The same program, in the precision that the model file allows."""

SHARED_PACKAGES = ("onnxruntime", "numpy", "pillow")
"""What does the work in every server; other versions of them would be compared too."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server: its name, the package whose version counts, and the path that takes an image."""

    name: str
    package: str
    path: str
    precision: str = "exact"

    @property
    def ours(self) -> bool:
        """Whether it is the service, which runs in this program's environment."""
        return self.package == OURS

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        if self.ours:
            return Path(sys.executable)
        return _VENVS / self.name / "bin" / "python"

    def versions(self) -> dict[str, str]:
        """Return the versions of its package and of the shared ones."""
        names = [self.package, *SHARED_PACKAGES]
        code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
        found = subprocess.run(
            [self.python, "-c", code, *names], check=True, capture_output=True, text=True
        )
        return dict(zip(names, found.stdout.split(), strict=True))


SERVERS: Mapping[str, Server] = MappingProxyType(
    {
        server.name: server
        for server in (
            Server(OURS, OURS, "/v1/classify?top_k=1"),
            Server(OURS_AUTO, OURS, "/v1/classify?top_k=1", precision="auto"),
            Server("mosec", "mosec", "/classify"),
            Server("bentoml", "bentoml", "/classify"),
            Server("litserve", "litserve", "/classify"),
            Server("mlserver", "mlserver", "/classify"),
            Server("torchserve", "torchserve", "/predictions/classify"),
            Server("rayserve", "ray", "/classify"),
        )
    }
)
"""By name, in the order in which they take their turns."""


def command_of(server: Server, task: Task, folder: Path) -> list[str]:
    """Return the command that starts a server in a folder of its own."""
    if not server.ours:
        return [str(server.python), str(HERE / server.name / "server.py")]
    models = folder / "models"
    models.mkdir()
    (models / "model.onnx").symlink_to(Path(task.model_file).resolve())
    return [
        str(server.python.with_name("resnet-serve")), "serve", "--models", str(models),
        "--port", str(task.port), "--max-batch", str(task.max_batch), "--log-level", "warning",
        "--precision", server.precision,
    ]  # fmt: skip


def environment_of(server: Server, task: Task, folder: Path) -> dict[str, str]:
    """Return a server's environment: this one's, without what would change how it is measured.

    Home and temporary files are in the server's folder, so that nothing of a run is left.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "RESNET_SERVE_", "PEERS_", "XDG_"))
    }
    common = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": f"{server.python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    if server.ours:
        return kept | common
    return kept | common | task.to_environment() | {"PYTHONPATH": str(CHECKOUT)}


def set_up(servers: Iterable[Server]) -> dict[str, str]:
    """Make the peers' virtual environments; return what went wrong by the peer's name."""
    problems = {}
    for server in servers:
        if server.ours or not problem_of(server):
            continue
        folder = _VENVS / server.name
        print(f"{server.name}: installing", file=sys.stderr)
        pip = [str(server.python), "-m", "pip", "install", "--quiet"]
        requirements = ["-r", "requirements.txt", "-c", "constraints.txt"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([*pip, *requirements], check=True, cwd=HERE / server.name)
        except subprocess.CalledProcessError as error:
            problems[server.name] = f"can't be installed: {error}"
            continue
        _stamp(server).write_text(_wanted(server))
    return problems


def problem_of(server: Server) -> str:
    """Say why a server can't be started; nothing when it can."""
    if server.ours:
        program = server.python.with_name("resnet-serve")
        if not program.exists():
            return f"{program} is missing: install the project first"
        return "" if server.name == OURS else OPENVINO.lack() or ""
    try:
        stamp = _stamp(server).read_text()
    except OSError:
        return "is not installed; --setup installs it"
    return "" if stamp == _wanted(server) else "is installed in other versions; --setup renews it"


def _stamp(server: Server) -> Path:
    return _VENVS / server.name / "installed.json"


def _wanted(server: Server) -> str:
    """Return what the virtual environment follows from."""
    files = [HERE / server.name / name for name in ("requirements.txt", "constraints.txt")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return json.dumps({"requirements": digest, "python": sys.version.split()[0]})
