"""`Client`: calls that block."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import httpx

from service.classification import Classification, Result
from service.client.answers import Answer
from service.client.calls import Call, Classify, GetHealth, GetModel, GetModels, Options, Sent
from service.client.results import Health, Limits, Model, ModelDetail
from service.client.transport import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    MOST_BYTES,
    MOST_IN_GROUP,
    answer_of,
    http_options,
    meaning_of,
    request_options,
)
from service.client.tries import RETRIED, Tries
from service.preprocess.inputs import encoded, encoded_each
from service.streams import Content, groups_of, in_order

if TYPE_CHECKING:
    from service.preprocess.inputs import Image

T = TypeVar("T")


class Client:
    """Asks a service over HTTP; several threads may share it.

    Connections are kept and used again. `timeout` (seconds) is for a call with all its tries: what
    is left is told to the service, and a call is tried again after connection errors, 429, 502, 503
    and 504 as long as another try can be in time, no earlier than the service says.

    Its methods raise the errors of `service.errors`: a `RequestError` for each problem that the
    service answers with (`code`, `status`, `detail`, `request_id`), otherwise a `ClientError`.
    """

    def __init__(  # noqa: PLR0913 - given by name
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
        draw: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connect to nothing yet.

        `connections` is also how many requests `classify_many` sends at a time. `tls` is
        for own certificates, see `ssl.create_default_context`. The waits between tries are drawn
        from `draw`.
        """
        self._http = httpx.Client(**http_options(url, api_key, connections, tls))
        self._timeout, self._connections = timeout, connections
        self._draw, self._clock, self._sleep = draw or random.Random(), clock, sleep  # noqa: S311
        self._limits: Limits | None = None

    def classify(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int | None = None,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> Classification:
        """Return the labels of one image: a file's path, its bytes, a picture or a uint8 array."""
        options = Options(model, version, top_k, priority)
        (result,) = self._ask(Classify([encoded(image)], options), timeout)
        if isinstance(result, Classification):
            return result
        raise result

    def classify_many(
        self,
        images: Iterable[Image],
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int | None = None,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Result]:
        """Yield each image's labels or error, in order, while further images are under way.

        Images are taken as they are needed, grouped by the service's limits and sent on
        `connections` connections. What fails a whole request (no such model, no answer in time) is
        raised.
        """
        options = Options(model, version, top_k, priority)
        return self.classify_encoded(encoded_each(images), options, timeout)

    def classify_encoded(
        self, contents: Iterable[Content], options: Options, timeout: float | None = None
    ) -> Generator[Result]:
        """Do what `classify_many` does with encoded images; an error in place of one stays."""
        limits = self.limits()
        body_bytes = limits.max_body_bytes - 1024 * MOST_IN_GROUP  # a form's own are fewer
        groups = groups_of(contents, min(limits.max_images, MOST_IN_GROUP), body_bytes)

        def ask(group: Sequence[Content]) -> list[Result]:
            call = Classify(group, options)
            return call.results() if call.is_done else self._ask(call, timeout)

        with ThreadPoolExecutor(self._connections) as pool:
            yield from in_order(
                groups, lambda group: pool.submit(ask, group), 2 * self._connections, MOST_BYTES
            )

    def models(self) -> list[Model]:
        """Return the models that can be asked."""
        models, self._limits = self._ask(GetModels())
        return models

    def model(self, name: str, version: int | None = None) -> ModelDetail:
        """Return one model with its classes; without a version, the highest."""
        return self._ask(GetModel(name, version))

    def limits(self) -> Limits:
        """Return what one request may hold; the service is asked once."""
        if self._limits is None:
            self.models()
        return self._limits or Limits()

    def health(self) -> Health:
        """Return the service's state, whatever it is."""
        return self._ask(GetHealth())

    def _ask(self, call: Call[T], timeout: float | None = None) -> T:
        tries = Tries(self._timeout if timeout is None else timeout, self._draw, self._clock)
        while True:
            try:
                return call.read(self._send(call.sent(), tries))
            except RETRIED as error:
                wait_s = tries.wait_s(error)
                if wait_s is None:
                    return call.given_up(error)
            self._sleep(wait_s)

    def _send(self, sent: Sent, tries: Tries) -> Answer:
        try:
            with self._http.stream(**request_options(sent, tries)) as response:
                pieces = []
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    tries.left_s()  # an answer that trickles must not outlast the budget
                return answer_of(response, b"".join(pieces))
        except httpx.TransportError as error:
            raise meaning_of(error, tries) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        """Return this client, which the end of the block closes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close the connections."""
        self.close()
