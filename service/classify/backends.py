"""What classifies the images: a model in this process, or a server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from service.access.sent import key_in
from service.classify.errors import CutOffError, OptionError
from service.classify.options import ClassifyOptions
from service.classify.rows import Classify
from service.engine.builds import install_command
from service.errors import ClientError, RequestError
from service.files import sha256_of

if TYPE_CHECKING:
    from service.client import Client
    from service.client.results import ModelDetail


@dataclass(frozen=True, slots=True)
class Backend:
    """Gives `top_k` labels for each image; `about` says what else they depend on."""

    classify: Classify
    top_k: int
    about: Mapping[str, object]


@contextmanager
def backend_of(options: ClassifyOptions) -> Iterator[Backend]:
    """Yield what the options ask for.

    Raises a `StartupError` if there is no such model or server, or it answers no more.
    """
    if options.url is None:
        with _in_process(options) as backend:
            yield backend
        return
    try:
        with _client(options, options.url) as client:
            yield _asking(client, options)
    except (ClientError, RequestError) as error:
        raise CutOffError(f"{options.url}: {error.detail} ({error.code})") from error


@contextmanager
def _in_process(options: ClassifyOptions) -> Iterator[Backend]:
    from service.classifier import Classifier  # noqa: PLC0415 - imports ONNX Runtime

    with Classifier(
        options.model, provider=options.provider, precision=options.precision
    ) as classifier:
        top_k = min(options.top_k, len(classifier.labels))
        yield Backend(
            partial(classifier.classify_encoded, top_k=top_k),
            top_k,
            {
                "model": classifier.name,
                "sha256": sha256_of(classifier.file),
                "computed_in": classifier.computed_in,
            },
        )


def _client(options: ClassifyOptions, url: str) -> Client:
    try:
        from service.client import Client  # noqa: PLC0415 - imports httpx, an extra
    except ModuleNotFoundError as error:
        raise OptionError(f"--url needs httpx; run {install_command('client')}") from error
    key = None if options.api_key_file is None else _key_in(options.api_key_file)
    tls = None if options.ca_file is None else _trusting(options.ca_file)
    try:
        return Client(
            url, api_key=key, timeout=options.timeout_s, connections=options.connections, tls=tls
        )
    except ValueError as error:
        raise OptionError(f"--url: {error}") from error


def _key_in(file: Path) -> str:
    try:
        return key_in(file)
    except ValueError as error:
        raise OptionError(f"--api-key-file {file}: {error}") from error


def _trusting(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        raise OptionError(f"--ca-file {file}: can't be read: {error}") from error


def _asking(client: Client, options: ClassifyOptions) -> Backend:
    """Return a backend for the version of the model that answers most requests at present."""
    from service.client.calls import Options  # noqa: PLC0415 - see above

    models = [model for model in client.models() if options.model in {None, model.name}]
    chosen = [model for model in models if options.model or model.default]
    if not chosen:
        names = ", ".join(sorted({model.name for model in client.models()}))
        raise OptionError(f"--model: the server has {names}; name one of them")
    model = max(chosen, key=lambda each: (each.share, each.version))
    top_k = min(options.top_k, model.classes)
    asked = Options(model.name, model.version, top_k)
    return Backend(
        lambda contents: client.classify_encoded(contents, asked),
        top_k,
        {
            "url": options.url,
            "model": model.name,
            "version": model.version,
            "description of the model": _digest(client.model(model.name, model.version)),
        },
    )


def _digest(model: ModelDetail) -> str:
    """Return what tells a model from another that has its name and version."""
    told = model.weights, model.preprocessing, model.labels, model.precision
    return sha256(to_json(told)).hexdigest()
