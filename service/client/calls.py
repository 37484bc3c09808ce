"""The calls of the API without their transport: what is sent, and what an answer gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from service.classification import Result, classification_of
from service.client.answers import Answer, checked, image_error_of
from service.client.results import Health, Limits, Model, ModelDetail, health_of, known
from service.client.tries import is_passing
from service.errors import (
    AllImagesFailedError,
    BodyTooLargeError,
    CorruptImageError,
    EmptyBodyError,
    HeicNotSupportedError,
    ImageTooLargeError,
    InferenceError,
    InternalError,
    NotAnImageError,
    RequestError,
    TruncatedImageError,
    UnexpectedAnswerError,
    UnsupportedPixelsError,
)
from service.streams import Content

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_OF_THE_IMAGE = (
    BodyTooLargeError, CorruptImageError, EmptyBodyError, HeicNotSupportedError,
    ImageTooLargeError, NotAnImageError, TruncatedImageError, UnsupportedPixelsError,
)  # fmt: skip
"""Errors of a request with one image that are the image's own."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What httpx sends."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: Sequence[tuple[str, tuple[str, bytes, str]]] | None = None


class Call(Protocol[T_co]):
    """One call of the API, which may take several tries."""

    def sent(self) -> Sent:
        """Return what to send in the next try."""

    def read(self, answer: Answer) -> T_co:
        """Return what an answer gives; raise the error that it stands for."""

    def given_up(self, error: Exception) -> T_co:
        """Return what there is without another try, or raise the last one's error."""


class Get(Generic[T]):
    """A call that asks for one resource."""

    def __init__(self, path: str, params: Mapping[str, str] | None = None) -> None:
        self._sent = Sent("GET", path, params or {})

    def sent(self) -> Sent:
        """Return the request."""
        return self._sent

    def read(self, answer: Answer) -> T:
        """Return what the answer's JSON gives."""
        try:
            return self.result(checked(answer))
        except (KeyError, TypeError) as error:
            raise answer.unexpected() from error

    def result(self, members: Any) -> T:
        """Return the members as this call's result."""
        raise NotImplementedError

    def given_up(self, error: Exception) -> T:
        """Raise the error."""
        raise error


class GetModels(Get[tuple[list[Model], Limits]]):
    """`GET /v1/models`: the models that can be asked, and the limits of requests."""

    def __init__(self) -> None:
        super().__init__("v1/models")

    def result(self, members: Any) -> tuple[list[Model], Limits]:
        """Return the models and the limits."""
        listed = [known(Model, each) for each in members["models"]]
        return listed, known(Limits, members.get("limits", {}))


class GetModel(Get[ModelDetail]):
    """`GET /v1/models/{name}`."""

    def __init__(self, name: str, version: int | None) -> None:
        params = {} if version is None else {"version": str(version)}
        super().__init__(f"v1/models/{quote(name, safe='')}", params)

    def result(self, members: Any) -> ModelDetail:
        """Return the model."""
        return known(ModelDetail, members)


class GetHealth(Get[Health]):
    """`GET /health`, whose answer is one whatever the state."""

    def __init__(self) -> None:
        super().__init__("health")

    def read(self, answer: Answer) -> Health:
        """Return the health, with status 503 too."""
        members = answer.json()
        if answer.status == 503 and isinstance(members, dict) and "state" in members:
            return self.result(members)
        return super().read(answer)

    def result(self, members: Any) -> Health:
        """Return the health."""
        return health_of(members)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked about images."""

    model: str | None = None
    version: int | None = None
    top_k: int | None = None
    priority: str | None = None
    """`high` or `low`."""

    def params(self) -> dict[str, str]:
        """Return the query."""
        given = {"model": self.model, "version": self.version, "top_k": self.top_k}
        return {name: str(value) for name, value in given.items() if value is not None}

    def headers(self) -> dict[str, str]:
        """Return the headers."""
        return {} if self.priority is None else {"x-request-priority": self.priority}


class Classify:
    """`POST /v1/classify` with one or several images.

    An image whose error may pass is sent again in the next try, the others are not.
    """

    def __init__(self, contents: Sequence[Content], options: Options) -> None:
        self._contents, self._options = contents, options
        self._results: list[Result | None] = [
            None if isinstance(content, bytes) else content for content in contents
        ]
        self._left = [i for i, result in enumerate(self._results) if result is None]

    @property
    def is_done(self) -> bool:
        """Return whether no image is left to send."""
        return not self._left

    def sent(self) -> Sent:
        """Return the request for the images that have no result yet."""
        options = self._options
        bodies = [content for i in self._left if isinstance(content := self._contents[i], bytes)]
        kind = "application/octet-stream"
        if len(bodies) == 1:
            headers = options.headers() | {"content-type": kind}
            return Sent("POST", "v1/classify", options.params(), headers, content=bodies[0])
        files = [("files", ("image", body, kind)) for body in bodies]
        return Sent("POST", "v1/classify", options.params(), options.headers(), files=files)

    def read(self, answer: Answer) -> list[Result]:
        """Return all images' results.

        Raises the error of the request, or of an image that may succeed in another try.
        """
        try:
            self._take(answer)
        except (KeyError, TypeError, IndexError) as error:
            raise answer.unexpected() from error
        for i in self._left:
            if isinstance(result := self._results[i], RequestError):
                raise result
        return self.results()

    def _take(self, answer: Answer) -> None:
        """Note the results in an answer, and which images may succeed in another try."""
        model, version = "", 0
        try:
            members = checked(answer)
            model, version, results = members["model"], members["version"], members["results"]
        except AllImagesFailedError as error:
            results = error.results
        except _OF_THE_IMAGE as error:
            if len(self._left) > 1:
                raise
            self._fail_all(error)
            return
        except (InferenceError, InternalError) as error:  # all failed, this is the first one's
            self._fail_all(error)
            return
        if len(results) != len(self._left):
            raise answer.unexpected()
        for i, result in zip(self._left, results, strict=True):
            self._results[i] = (
                image_error_of(result["error"], answer)
                if "error" in result
                else classification_of(result, model, version)
            )
        self._left = [i for i in self._left if _may_pass(self._results[i])]

    def _fail_all(self, error: RequestError) -> None:
        for i in self._left:
            self._results[i] = error
        self._left = []

    def results(self) -> list[Result]:
        """Return all images' results; call it when each has one."""
        return [result for result in self._results if result is not None]

    def given_up(self, error: Exception) -> list[Result]:
        """Return the results if each image has one, or raise the error."""
        if None in self._results or isinstance(error, UnexpectedAnswerError):
            raise error
        return self.results()


def _may_pass(result: Result | None) -> bool:
    return isinstance(result, RequestError) and is_passing(result)
