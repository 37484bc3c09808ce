"""Every error that the service raises on purpose, with one class per cause.

The stages of a request, and the errors that can end each:

    start-up  --settings-->      SettingsError, KeyFileError, TlsFilesError
              --runtime-->       RuntimeMissingError, RuntimeConflictError, ProviderError
              --model files-->   ModelFileError, ContractError, CalibrationError,
                                 ModelSelectionError

    request   --HTTP/1.1-->      MalformedRequestError, HeadersTooLargeError, HeadersTimeoutError
              --key-->           UnauthorizedError, ForbiddenError, AdminOffError,
                                 RateLimitedError
              --query-->         InvalidParameterError, ModelRequiredError, UnknownModelError,
                                 BrokenModelError, EvictedModelError, NoRoomError, TopKError,
                                 UnknownLabelError, NotMultiLabelError, NotCalibratedError,
                                 CoverageLevelError
              --headers-->       InvalidTimeoutError, InvalidPriorityError, NotAcceptableError
              --upload-->        UnsupportedMediaTypeError, ContentEncodingError,
                                 BodyTooLargeError, InflightBytesError, BodyTimeoutError,
                                 EmptyBodyError
              --tensors-->       InvalidInferError, InvalidTensorError, SharedMemoryError,
                                 NotSupportedError
              --form-->          MalformedMultipartError, MalformedJsonError, NoImagesError,
                                 TooManyImagesError
              --admission-->     NotReadyError, MissingOutputError, QueueFullError,
                                 DeadlineUnreachableError
     image    --base64-->        InvalidBase64Error
              --decode-->        EmptyImageError, NotAnImageError, HeicNotSupportedError,
                                 ImageTooLargeError, TruncatedImageError, CorruptImageError,
                                 UnsupportedPixelsError
              --pixels-->        InvalidPixelsError
              --batch, engine--> DeadlineExceededError, ModelUnavailableError, InferenceError
              --device-->        DeviceLostError, SessionFailedError, DeviceMemoryError, each
                                 of which becomes a ModelUnavailableError
     answer   --together-->      AllImagesFailedError
     models  --load, unload-->   ModelLoadError, NoRoomError, RolloutError
     at any time                 ClientDisconnectedError, StoppingError, InternalError,
                                 RouteNotFoundError, MethodNotAllowedError

    client    --file, pixels-->  UnreadableImageError
              --connection-->    UnreachableError, UntrustedServerError,
                                 ClientTimeoutError
              --answer-->        UnexpectedAnswerError, or the error that it stands for

An image's error is that image's result when the request has several, and the whole answer when it
has one. `http/problems.py` is the one place that turns errors into problem details (RFC 9457).
"""

from __future__ import annotations

from typing import ClassVar


class ResnetServeError(Exception):
    """The base class of all errors raised on purpose."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# Start-up: printed as one line, exit status 1.


class StartupError(ResnetServeError):
    """The service can't start as requested."""


class SettingsError(StartupError):
    """A setting is unknown or invalid."""


class KeyFileError(StartupError):
    """The file of API keys can't be read or has a line that is not as it must be."""


class TlsFilesError(StartupError):
    """A certificate or key can't be read, or they do not belong together."""


class RuntimeMissingError(StartupError):
    """Neither onnxruntime nor onnxruntime-gpu is installed."""


class RuntimeConflictError(StartupError):
    """Both onnxruntime and onnxruntime-gpu are installed; either one may be loaded."""


class ProviderError(StartupError):
    """The requested execution provider does not work here."""


class ModelFileError(StartupError):
    """A model file is missing, unreadable or not a model."""


class ContractError(ModelFileError):
    """A model file has no contract or an invalid one."""


class CalibrationError(ModelFileError):
    """A model file has an invalid calibration, or that of another model."""


class ModelSelectionError(StartupError):
    """The requested models do not fit together (none, a duplicate name, an unknown default)."""


# While serving: requests that wait for the model get a `ModelUnavailableError`.


class DeviceLostError(ResnetServeError):
    """A device failed in a way that only a new process can fix; this one exits."""


class SessionFailedError(ResnetServeError):
    """A session failed on a device that still works; the model is reloaded."""


class DeviceMemoryError(SessionFailedError):
    """The device is out of memory."""


# Requests: answered as a problem detail with the class's status and code.


class RequestError(ResnetServeError):
    """An error that a request, or one image of it, gets instead of labels.

    The message is shown to the client: what is wrong and what is allowed. `code` is stable.
    `retry_after_s` becomes the `Retry-After` header; pass it where it can be computed. Where a
    client raises it, `request_id` is that of the answer.
    """

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]
    retry_after_s: int | None = None
    request_id: str | None = None

    @property
    def detail(self) -> str:
        """Return the message."""
        return str(self)

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class InternalError(RequestError):
    """A bug; the log has the traceback under the request's id, the response never does."""

    status, code, title = 500, "internal_error", "Internal error"


class MalformedRequestError(RequestError):
    """The bytes received are not a valid HTTP/1.1 request; the connection is closed."""

    status, code, title = 400, "malformed_request", "Malformed request"


class HeadersTooLargeError(RequestError):
    """The request line and headers exceed 64 KiB."""

    status, code, title = 431, "headers_too_large", "Headers too large"


class HeadersTimeoutError(RequestError):
    """The headers did not arrive within `body_timeout_s`."""

    status, code, title = 408, "headers_timeout", "The headers took too long"


class RouteNotFoundError(RequestError):
    """No route matches this path."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowedError(RequestError):
    """The route does not support this method."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class StoppingError(RequestError):
    """The service stopped before the request was answered."""

    status, code, title = 503, "stopping", "The service is stopping"
    retry_after_s = 1


class BrokenModelError(RequestError):
    """The model file can't be loaded or failed its golden cases; other models are served."""

    status, code, title = 503, "model_broken", "The model is broken"


class NotReadyError(RequestError):
    """The model is warming up or being reloaded."""

    status, code, title = 503, "model_not_ready", "The model is not ready"
    retry_after_s = 1


class InflightBytesError(RequestError):
    """The body would take the total of all bodies in flight above `max_inflight_bytes`."""

    status, code, title = 503, "too_many_bytes_in_flight", "Too many request bytes in flight"
    retry_after_s = 1


class UnauthorizedError(RequestError):
    """The request has no API key, or one that is not valid."""

    status, code, title = 401, "unauthorized", "An API key is needed"


class ForbiddenError(RequestError):
    """The API key does not have the scope that the operation needs."""

    status, code, title = 403, "forbidden", "Not allowed with this API key"


class AdminOffError(RequestError):
    """The operation needs an API key with the scope admin, and the service has no keys."""

    status, code, title = 403, "admin_off", "Not allowed without API keys"

    def __init__(
        self,
        message: str = "this needs an API key with the scope admin, and the service was started "
        "without keys (--api-keys), and without --admin, which opens this to everyone",
    ) -> None:
        super().__init__(message)


class RateLimitedError(RequestError):
    """The API key has made as many requests as it may at present."""

    status, code, title = 429, "rate_limited", "Too many requests"
    retry_after_s = 1


class InvalidParameterError(RequestError):
    """A query parameter is unknown, repeated, or of the wrong type."""

    status, code, title = 400, "invalid_parameter", "Invalid query parameter"


class ModelRequiredError(RequestError):
    """Several models are served, none is the default, and the request names none."""

    status, code, title = 400, "model_required", "A model must be named"


class UnknownModelError(RequestError):
    """No model with that name and version is served."""

    status, code, title = 404, "unknown_model", "Unknown model"


class ModelLoadError(RequestError):
    """The model's file can't be served; what was served before still is."""

    status, code, title = 422, "model_load_failed", "The model can't be loaded"


class EvictedModelError(RequestError):
    """The model was evicted to make room, and is being loaded again for this request's retry."""

    status, code, title = 503, "model_evicted", "The model is being loaded again"


class NoRoomError(RequestError):
    """The model does not fit into `max_models` or `max_models_bytes` beside pinned ones."""

    status, code, title = 503, "no_room_for_model", "No room for the model"


class RolloutError(RequestError):
    """A rollout can't begin or end: one runs already, none runs, or there is nothing to compare."""

    status, code, title = 409, "rollout_refused", "The rollout is refused"


class TopKError(RequestError):
    """`top_k` is not between 1 and the model's number of classes."""

    status, code, title = 400, "top_k_out_of_range", "top_k out of range"


class UnknownLabelError(RequestError):
    """`label` is no id, index or name of the model's classes, or a name that several have."""

    status, code, title = 404, "unknown_label", "Unknown label"


class NotAcceptableError(RequestError):
    """The route has no answer of a type that `Accept` allows."""

    status, code, title = 406, "not_acceptable", "Not acceptable"


class NotMultiLabelError(RequestError):
    """`threshold` is for models with independent labels, and this one's are not."""

    status, code, title = 422, "not_multi_label", "The labels are not independent"


class NotCalibratedError(RequestError):
    """`coverage` or `abstain` needs what the model's file was not calibrated for."""

    status, code, title = 422, "not_calibrated", "The model is not calibrated for this"


class CoverageLevelError(RequestError):
    """`coverage` is higher than any level that the model's file was calibrated for."""

    status, code, title = 422, "coverage_out_of_range", "coverage out of range"


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not one of the accepted body types."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class ContentEncodingError(RequestError):
    """The body is compressed, or a form part uses an unsupported encoding."""

    status, code, title = 415, "unsupported_content_encoding", "Unsupported content encoding"


class BodyTooLargeError(RequestError):
    """The body is larger than `max_body_bytes`."""

    status, code, title = 413, "body_too_large", "Request body too large"


class BodyTimeoutError(RequestError):
    """The body did not arrive within `body_timeout_s` or the request's own timeout."""

    status, code, title = 408, "body_timeout", "Request body too slow"


class EmptyBodyError(RequestError):
    """The body is empty."""

    status, code, title = 400, "empty_body", "Empty request body"


class ClientDisconnectedError(RequestError):
    """The client disconnected; this status appears only in the log and the metrics."""

    status, code, title = 499, "client_disconnected", "Client closed the connection"


class MalformedMultipartError(RequestError):
    """The body is not valid multipart/form-data, although its header says so."""

    status, code, title = 400, "malformed_multipart", "Malformed multipart body"


class MalformedJsonError(RequestError):
    """The body is not JSON in the documented format."""

    status, code, title = 400, "malformed_json", "Malformed JSON body"


class NoImagesError(RequestError):
    """The body is well formed but contains no images."""

    status, code, title = 400, "no_images", "No images in the request"


class TooManyImagesError(RequestError):
    """The request contains more than `max_images` images, or more than the route takes."""

    status, code, title = 413, "too_many_images", "Too many images"


class InvalidTimeoutError(RequestError):
    """`X-Request-Timeout-Ms` is not a whole number of milliseconds from 1 to a day."""

    status, code, title = 400, "invalid_timeout", "Invalid request timeout"


class InvalidPriorityError(RequestError):
    """`X-Request-Priority` is neither high nor low."""

    status, code, title = 400, "invalid_priority", "Invalid request priority"


class QueueFullError(RequestError):
    """The images would exceed `max_queue`, or half of it for timeouts above the default."""

    status, code, title = 503, "queue_full", "Queue full"
    retry_after_s = 1


class InvalidBase64Error(RequestError):
    """An image in a JSON body, or a base64 form part, is not valid base64."""

    status, code, title = 422, "invalid_base64", "Invalid base64"


class EmptyImageError(RequestError):
    """One of several images is empty."""

    status, code, title = 422, "empty_image", "Empty image"


class NotAnImageError(RequestError):
    """The data is not in an accepted image format."""

    status, code, title = 415, "not_an_image", "Not an accepted image format"


class HeicNotSupportedError(RequestError):
    """The image is HEIC, and the optional decoder (extra `heic`) is not installed."""

    status, code, title = 415, "heic_not_supported", "HEIC is not supported here"


class ImageTooLargeError(RequestError):
    """By its header, the image has more than `max_image_pixels`, or needs as much work."""

    status, code, title = 413, "image_too_large", "Image has too many pixels"


class TruncatedImageError(RequestError):
    """The image's data ends early."""

    status, code, title = 422, "truncated_image", "Truncated image"


class CorruptImageError(RequestError):
    """The image starts like an accepted format but can't be decoded."""

    status, code, title = 422, "corrupt_image", "Corrupt image"


class UnsupportedPixelsError(RequestError):
    """The pixel format is not supported (32-bit, floating point, JPEG 2000 in a TIFF, ...)."""

    status, code, title = 422, "unsupported_pixels", "Unsupported pixel format"


class InvalidPixelsError(RequestError):
    """Pixels that came as such, not as an encoded image, are not what the model takes."""

    status, code, title = 400, "invalid_pixels", "Invalid pixels"


class InvalidInferError(RequestError):
    """A request of the Open Inference Protocol is not as the protocol says, but for its tensors."""

    status, code, title = 400, "invalid_inference_request", "Invalid inference request"


class InvalidTensorError(RequestError):
    """An input's name, datatype, shape or data is not what the model takes."""

    status, code, title = 400, "invalid_tensor", "Invalid tensor"


class SharedMemoryError(RequestError):
    """Shared memory is not available to clients, as for tensors that lie in it."""

    status, code, title = 400, "no_shared_memory", "No shared memory"


class NotSupportedError(RequestError):
    """A part of a protocol that this service does not have."""

    status, code, title = 501, "not_supported", "Not supported"


class MissingOutputError(RequestError):
    """The model's file does not have a requested output."""

    status, code, title = 422, "missing_output", "Missing output"


class ModelUnavailableError(RequestError):
    """The model's runner stopped, its session failed, or its device was lost."""

    status, code, title = 503, "model_unavailable", "The model is unavailable"
    retry_after_s = 5


class DeadlineExceededError(RequestError):
    """The request was accepted, but its deadline passed before it was answered."""

    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"


class DeadlineUnreachableError(RequestError):
    """As predicted, this deadline would be missed, or an accepted request's would be."""

    status, code, title = 503, "deadline_unreachable", "Deadline unreachable"
    retry_after_s = 1


class InferenceError(RequestError):
    """The engine failed on the batch that contained the image."""

    status, code, title = 500, "inference_failed", "Inference failed"


class AllImagesFailedError(RequestError):
    """All of several images failed; the problem detail lists the error of each."""

    status, code, title = 422, "all_images_failed", "All images failed"

    def __init__(self, message: str, results: list[dict[str, object]]) -> None:
        super().__init__(message)
        self.results = results


# Clients: what `service.client` and `service.classifier` raise besides the errors above.


class ClientError(ResnetServeError):
    """No answer of the service could be had; `code` is stable, as that of a `RequestError`."""

    code: ClassVar[str]
    title: ClassVar[str]
    status: int | None = None
    retry_after_s: int | None = None
    request_id: str | None = None

    @property
    def detail(self) -> str:
        """Return the message."""
        return str(self)


class UnreadableImageError(ClientError):
    """An image's file can't be read, or its pixels can't be encoded."""

    code, title = "unreadable_image", "The image can't be read"


class UnreachableError(ClientError):
    """The service can't be reached, or the connection broke before it had answered."""

    code, title = "unreachable", "The service can't be reached"


class UntrustedServerError(ClientError):
    """The service's certificate is of no authority that the client trusts, or for another name."""

    code, title = "untrusted_server", "The service's certificate is not trusted"


class ClientTimeoutError(ClientError):
    """The client's timeout ran out."""

    code, title = "client_timeout", "No answer within the client's timeout"


class UnexpectedAnswerError(ClientError):
    """The answer is none of this service's, as when a proxy answers with a page of its own."""

    code, title = "unexpected_answer", "Unexpected answer"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after_s: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s, self.request_id = status, retry_after_s, request_id
