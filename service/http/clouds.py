"""The routes of TorchServe, Amazon SageMaker and Google's Vertex AI.

https://docs.pytorch.org/serve/inference_api.html
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from service.contract import Label
from service.http.bodies import body_parser_of, parse_instances
from service.http.classify import answer_with_labels, classified
from service.http.exchange import Exchange
from service.http.results import classification
from service.http.stages import find_model
from service.inference.request import all_answered
from service.inference.selection import selection_of
from service.kserve.names import version_of

_X_IMAGE = b"application/x-image"


async def ping(exchange: Exchange) -> None:
    """Answer whether the service is ready, as TorchServe and SageMaker ask."""
    reasons = exchange.runtime.unready_reasons()
    if reasons:
        await exchange.respond_json({"status": "Unhealthy", "reasons": reasons}, 503)
    else:
        await exchange.respond_json({"status": "Healthy"})


async def predictions(exchange: Exchange) -> None:
    """Return the most probable labels of an image with their probabilities, as TorchServe."""
    parameters = exchange.path_parameters
    model = find_model(exchange, parameters["name"], version_of(parameters.get("version")))
    parse = body_parser_of(exchange.headers.get(b"content-type"))
    selection = selection_of(model)
    _, results = await classified(exchange, model, parse, selection)
    names = _names(model.contract.labels)
    answers = [
        {names[index]: round(share, 6) for index, share in selection.labels(result.probabilities)}
        for result in all_answered(results)
    ]
    await exchange.respond_json(answers[0] if len(answers) == 1 else answers)


def _names(labels: Sequence[Label]) -> list[str]:
    """Return names that differ: a label, with its id if others are called the same."""
    counts = Counter(label.label for label in labels)
    return [
        label.label if counts[label.label] == 1 else f"{label.label} ({label.id})"
        for label in labels
    ]


async def invocations(exchange: Exchange) -> None:
    """Answer as /v1/classify does, at SageMaker's path and also for its type of images."""
    content_type = exchange.headers.get(b"content-type")
    await answer_with_labels(exchange, None if content_type == _X_IMAGE else content_type)


async def vertex(exchange: Exchange) -> None:
    """Return the labels of each image in Vertex AI's form."""
    model = find_model(exchange, None, None)
    selection = selection_of(model)
    images, results = await classified(exchange, model, parse_instances, selection)
    answer = classification(model, images, results, selection, exchange.record)
    await exchange.respond_json({"predictions": answer["results"]})
