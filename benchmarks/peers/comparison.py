"""The rounds of a comparison: each server in turn is started, loaded and stopped."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import ServerFailedError, running, temporary_folder
from servers import (
    OURS,
    SERVERS,
    SHARED_PACKAGES,
    Server,
    command_of,
    environment_of,
    problem_of,
)
from table import DECODE_AND_MODEL, MODEL_ALONE, figures_of, summarise, summarise_limits
from work import Task, free_port

from service.bench.limits import measure_limits
from service.bench.machine import describe_machine
from service.bench.options import BenchOptions, read_options
from service.bench.prepare import prepare
from service.bench.progress import Progress
from service.bench.run import measure
from service.bench.summary import spread
from service.contract import METADATA_KEY
from service.cpus import cpu_count
from service.engine.onnx import load_engine
from service.engine.providers import CPU
from service.models.files import builtin_file


class Comparison:
    """The rounds, and the result file, which is written anew after each step."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._progress = Progress()
        self._task = _make_task(arguments, folder)
        self._servers = [SERVERS[name] for name in arguments.servers]
        self._prepared = prepare(self._options("http://127.0.0.1", 1, None), self._progress)
        sizes = [len(image) for image in self._prepared.images]
        self.result: dict[str, Any] = {
            "machine": describe_machine(),
            "model_file": Path(self._task.model_file).name,
            "images": {
                "source": arguments.images, "count": len(sizes), "bytes": spread(sizes),
            },
            "max_batch": arguments.max_batch,
            "max_delay_ms": arguments.max_delay_ms,
            "duration": arguments.duration,
            "warm_up": arguments.warm_up,
            "clients": arguments.clients,
            "servers": {},
            "problems": {},
            "interrupted": False,
            "rounds": [],
            "summary": {},
            "limits": {},
        }  # fmt: skip

    def run(self) -> None:
        """Do the rounds; a KeyboardInterrupt leaves what there is in `result`."""
        self._servers = [server for server in self._servers if self._is_there(server)]
        if not self._servers:
            raise SystemExit("no server can be started:\n" + "\n".join(
                f"{name}: {reason}" for name, reason in self.result["problems"].items()
            ))  # fmt: skip
        for number in range(1, self._arguments.rounds + 1):
            self.result["rounds"].append({"servers": {}})
            # Each begins a round in its turn: what comes first or last gets no other machine.
            first = (number - 1) % len(self._servers)
            for server in self._servers[first:] + self._servers[:first]:
                self._say(f"round {number}/{self._arguments.rounds}: {server.name}")
                try:
                    self._load_server(server)
                except ServerFailedError as error:
                    self._say(f"{server.name}: {error}")
                    self.result["problems"][server.name] = f"round {number}: {error}"
                self._save()
            if not self._arguments.no_limits:
                self._say(f"round {number}/{self._arguments.rounds}: limits")
                self.result["rounds"][-1]["limits"] = self._measure_limits()
                self._save()

    def interrupted(self) -> None:
        """Note that the rounds are not whole."""
        self.result["interrupted"] = True
        self._save()

    def _is_there(self, server: Server) -> bool:
        if problem := problem_of(server):
            self._say(f"{server.name}: {problem}")
            self.result["problems"][server.name] = problem
            return False
        versions = server.versions()
        self.result["servers"][server.name] = {"package": server.package, "versions": versions}
        ours = SERVERS[OURS].versions()
        for package in SHARED_PACKAGES:
            if versions[package] != ours[package]:
                self._say(f"{server.name} has {package} {versions[package]}, and {OURS} "
                          f"{ours[package]}: the comparison is of these too")  # fmt: skip
        return True

    def _load_server(self, server: Server) -> None:
        """Start a server, load it with each number of clients, stop it."""
        entry: dict[str, Any] = {"loads": {}}
        self.result["rounds"][-1]["servers"][server.name] = entry
        task = replace(self._task, port=free_port())
        url = f"http://127.0.0.1:{task.port}"
        with (
            temporary_folder() as folder,
            running(
                command_of(server, task, folder), environment_of(server, task, folder), folder
            ) as started,
        ):
            entry["start_s"] = started.wait_until_right(url + server.path, self._prepared.images[0])
            for clients in self._arguments.clients:
                path = None if server.ours else server.path
                options = self._options(url, clients, started.pid, path)
                began, others_s = time.perf_counter(), started.others_cpu_s()
                report = measure(options, self._progress, self._prepared)
                others = (started.others_cpu_s() - others_s) / (time.perf_counter() - began)
                if report["interrupted"]:
                    raise KeyboardInterrupt
                (run,) = report["runs"]
                figures = figures_of(run, started.memory_bytes(), others)
                entry["loads"][str(clients)] = figures | {"kinds_of_errors": run["errors"]}
                self._save()
                entry["computed_in"] = _computed_in(report) or self._task.contract.precision
                self._progress.clear()
                self._say(f"  {clients} clients: {figures['per_s']:.0f} req/s, "
                          f"{figures['errors']:.0f} errors")  # fmt: skip

    def _measure_limits(self) -> dict[str, dict[str, float]]:
        """Return images a second by layout: of the model alone, and with decoding."""
        limits = measure_limits(
            Path(self._task.model_file), self._prepared.images, 1, self._progress.show
        )
        self._progress.clear()
        return {
            MODEL_ALONE: {
                "{callers} x {threads} threads, {options}, batches of {batch}".format_map(row):
                row["images_per_s"] for row in limits["model"]
            },
            DECODE_AND_MODEL: {
                "{name}, {options}".format_map(row): row["images_per_s"]
                for row in limits["pipeline"]
            },
        }  # fmt: skip

    def _options(
        self, url: str, clients: int, pid: int | None, path: str | None = None
    ) -> BenchOptions:
        given = self._arguments
        return read_options(
            {
                "url": url, "clients": clients, "server_pid": pid,
                # Without a path of another server, the service is asked about its model.
                **({"path": path} if path else {"top_k": 1}),
                "images": given.images, "image_count": given.image_count,
                "model_file": self._task.model_file, "reference": "local",
                "duration": given.duration, "warm_up": given.warm_up,
            }
        )  # fmt: skip

    def _save(self) -> None:
        """Write the result so that there is always a whole file."""
        self.result["summary"] = summarise(self.result)
        self.result["limits"] = summarise_limits(self.result)
        path: Path = self._arguments.output
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n")
        unfinished.replace(path)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _computed_in(report: dict[str, Any]) -> str | None:
    """Return the precision that a server reports; the peers report none, and know but one."""
    found = [
        model["computed_in"]
        for model in report["server"].get("models", ())
        if isinstance(model, dict) and "computed_in" in model
    ]
    return str(found[0]) if found else None


def _make_task(arguments: argparse.Namespace, folder: Path) -> Task:
    """Write the model file's contract down for the peers, and give what they are to do."""
    model_file = Path(arguments.model_file or builtin_file().path).resolve()
    engine = load_engine(model_file, provider=CPU.name, intra_op_threads=1)
    contract = folder / "contract.json"
    contract.write_text(engine.metadata[METADATA_KEY])
    engine.close()
    return Task(
        model_file=str(model_file),
        contract_file=str(contract),
        port=0,
        cores=cpu_count(),
        max_batch=arguments.max_batch,
        max_delay_ms=arguments.max_delay_ms,
    )
