"""The servers that `simulated.py` loads, each in its own process.

    python benchmarks/simulated_server.py KIND TABLE [FLAGS of resnet-serve serve]

- `service`: the whole service as `resnet-serve serve` makes it, but for its engines, which are
  simulated (`simulated_engine.py`). TABLE has the milliseconds of a batch by its size.
- `empty`: a FastAPI application that reads the body and answers a few fixed bytes of JSON: what the
  same server software carries when nothing is done.
- `decode`: the same, but it decodes the image first, on threads, as the service does.

These two are served by uvicorn as it comes, on uvloop and httptools. All end on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, Request, Response
from simulated_engine import SimulatedOpener, parse_table

from service.app import create_app
from service.bench.pipeline import Pipeline, load_pipeline
from service.cpus import cpu_count
from service.engine.builds import prepare_runtime
from service.logs import LogWriter, configure_logs
from service.models.files import builtin_file
from service.server import bind, run_server
from service.settings import add_flags, load_settings

_LOG_FLUSH_S = 1.0

KINDS = ("service", "empty", "decode")

# Of the service's form, so that the same load generator reads it, and of about its size.
_FIXED = (
    b'{"model":"none","version":1,"results":[{"labels":[{"id":"n00000000","label":"nothing",'
    b'"index":0,"probability":0.9}],"width":64,"height":64}],"timings_ms":{"receive":0.1,'
    b'"decode":0.1,"queue":0.1,"infer":1.0,"total":1.5}}'
)


def empty_app(pipeline: Pipeline | None = None) -> FastAPI:
    """Make an application whose handler does nothing, or decodes if it has a pipeline."""
    app = FastAPI()
    pool = ThreadPoolExecutor(cpu_count())

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        """Read the body and answer."""
        body = await request.body()
        if pipeline is not None:
            await asyncio.get_running_loop().run_in_executor(pool, pipeline.decode, body)
        return Response(_FIXED, media_type="application/json")

    @app.get("/readyz")
    async def ready() -> Response:
        """Answer once the server listens."""
        return Response()

    return app


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("table", type=parse_table)
    add_flags(parser)
    flags = vars(parser.parse_args())
    kind, table = flags.pop("kind"), flags.pop("table")
    settings, _ = load_settings(flags, {})
    prepare_runtime()
    logs = LogWriter(open(2, "wb", buffering=0, closefd=False))  # noqa: SIM115 - stays open
    configure_logs(settings.log_format, settings.log_level, logs)
    if kind == "service":
        with bind(settings.host, settings.port) as listener:
            app = create_app(settings, SimulatedOpener(table))
            status = run_server(app, settings, logs, listener)
        logs.close(_LOG_FLUSH_S)
        return status
    pipeline = load_pipeline(builtin_file().path) if kind == "decode" else None
    config = uvicorn.Config(
        empty_app(pipeline),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
