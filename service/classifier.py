"""`Classifier`: a model file in this process, for notebooks and scripts.

It runs what the server runs, on threads of its own: the same decoding, batching, engines and golden
cases.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from service.classification import Classification, Prediction, Result
from service.engine.builds import prepare_runtime
from service.errors import ClientError, ModelFileError, RequestError
from service.files import user_cache
from service.inference.deadline import RequestDeadline
from service.inference.request import ImageResult, InferenceRequest
from service.inference.runtime import create_runtime
from service.inference.selection import Selection, selection_of
from service.models.model import ServedModel
from service.preprocess.inputs import encoded, encoded_each
from service.settings import MAX_TIMEOUT_MS, load_settings
from service.streams import Content, groups_of, in_order

if TYPE_CHECKING:
    from service.engine.base import Opener
    from service.preprocess.inputs import Image

_IN_GROUP, _GROUPS = 32, 8
"""Images that are submitted together, and how many such groups are under way: enough that no core
waits, at batches of 64 too."""

_MOST_BYTES = 256 * 2**20  # of encoded images under way
_CLOSE_S = 5.0


class Classifier:
    """Classifies images with a model file, or with the built-in model if none is given.

    Several threads may share it. Close it, or use it as a context manager, to end its threads.
    """

    def __init__(  # noqa: PLR0913 - given by name
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        precision: str = "auto",
        max_batch: int = 0,
        runners: int = 0,
        intra_op_threads: int = 0,
        decode_threads: int = 0,
        opener: Opener | None = None,
    ) -> None:
        """Open the file, choose its engine, and check its golden cases.

        The options are those of `resnet-serve serve`. `opener` opens the file instead of ONNX
        Runtime.

        Raises a `StartupError` if an option is wrong, or the file can't be used (`ModelFileError`).
        """
        prepare_runtime()
        _log_errors_only()
        given = {
            "models": None if file is None else os.fspath(file),
            "provider": provider,
            "precision": precision,
            "max_batch": max_batch,
            "runners": runners,
            "intra_op_threads": intra_op_threads,
            "decode_threads": decode_threads,
            "request_timeout_ms": MAX_TIMEOUT_MS,
            "max_queue": _IN_GROUP * _GROUPS,
        }
        self._runtime = create_runtime(load_settings(given, {}, user_cache())[0], opener)
        self._model = self._only_model()
        self._loop = _Loop()
        self._closed = False
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def _warm_up(self) -> None:
        """Start the threads and check the golden cases; raises `ModelFileError`."""
        self._loop.call(self._runtime.repository.start)
        self._runtime.repository.warm_up(threading.Event())
        if self._model.state != "ready":
            raise ModelFileError(f"model {self._model.name}: {self._model.reason}")

    def _only_model(self) -> ServedModel:
        models = list(self._runtime.repository)
        broken = self._runtime.repository.models.broken_files
        if len(models) + len(broken) > 1:
            names = ", ".join(sorted({*(m.name for m in models), *(m.name for m in broken)}))
            raise ModelFileError(f"a Classifier has one model; give the file of one of: {names}")
        return models[0]

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self._model.name

    @property
    def file(self) -> Path:
        """Return the model's file."""
        return self._model.file.path

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the model's output."""
        return tuple(label.label for label in self._model.contract.labels)

    @property
    def computed_in(self) -> str:
        """Return the provider and the precision that are used, as in `cpu fp32`."""
        return f"{self._model.engine.provider.name} {self._model.computed_in}"

    def classify(self, image: Image, *, top_k: int | None = None) -> Classification:
        """Return the labels of one image: a file's path, its bytes, a picture or a uint8 array.

        Raises the image's error, a `RequestError` or `UnreadableImageError`.
        """
        (result,) = self.classify_encoded([encoded(image)], top_k=top_k)
        if isinstance(result, Classification):
            return result
        raise result

    def classify_many(
        self, images: Iterable[Image], *, top_k: int | None = None
    ) -> Generator[Result]:
        """Yield each image's labels or error, in order, while further images are under way.

        Images are taken as they are needed, so that there may be any number of them.
        """
        return self.classify_encoded(encoded_each(images), top_k=top_k)

    def classify_encoded(
        self, contents: Iterable[Content], *, top_k: int | None = None
    ) -> Generator[Result]:
        """Do what `classify_many` does with encoded images; an error in place of one stays."""
        selection = selection_of(self._model, top_k)
        groups = groups_of(contents, _IN_GROUP, _MOST_BYTES // _GROUPS)

        def start(group: Sequence[Content]) -> Future[list[Result]]:
            return self._loop.submit(partial(self._answer, group, selection))

        return in_order(groups, start, _GROUPS, _MOST_BYTES)

    async def _answer(self, contents: Sequence[Content], selection: Selection) -> list[Result]:
        """Return the results of one group, on the event loop."""
        images = [each for each in contents if not isinstance(each, ClientError)]
        end = time.perf_counter() + MAX_TIMEOUT_MS / 1000
        due = RequestDeadline(end, MAX_TIMEOUT_MS)
        request = InferenceRequest(self._model, images, due, "in-process")
        results = iter(await self._runtime.inference.run(request) if images else ())
        return [
            each if isinstance(each, ClientError) else self._shown(next(results), selection)
            for each in contents
        ]

    def _shown(self, result: ImageResult | RequestError, selection: Selection) -> Result:
        if isinstance(result, RequestError):
            return result
        labels = self._model.contract.labels
        try:
            best = selection.labels(result.probabilities)
        except RequestError as error:  # no finite probabilities
            return error
        predictions = tuple(
            Prediction(labels[index].id, labels[index].label, index, round(probability, 6))
            for index, probability in best
        )
        return Classification(
            predictions, result.width, result.height, self._model.name, self._model.version
        )

    def close(self) -> None:
        """End the threads and close the engine; what is under way is given up."""
        if self._closed:
            return
        self._closed = True
        self._loop.cancel_all()
        self._loop.call(self._runtime.decode_pool.close)
        self._runtime.repository.close(_CLOSE_S)
        self._loop.close()

    def __enter__(self) -> Classifier:
        """Return this classifier, which the end of the block closes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close it."""
        self.close()


class _Loop:
    """An event loop on a thread of its own, since a notebook's is busy with the notebook."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        # A daemon, so that a program that does not close its classifier can end.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="classifier", daemon=True
        )
        self._thread.start()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a coroutine function."""
        if self._loop.is_closed():
            raise RuntimeError("the classifier is closed")
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def call(self, work: Callable[[], object]) -> None:
        """Call a function on the loop and wait for its end."""

        async def called() -> None:
            work()

        self.submit(called).result()

    def cancel_all(self) -> None:
        """Cancel all coroutines, and wait for their ends."""

        async def cancelled() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.submit(cancelled).result()

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _log_errors_only() -> None:
    """Log only errors, to stderr, unless the program has set up structlog itself.

    By default structlog prints everything to stdout.
    """
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger("error"),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
