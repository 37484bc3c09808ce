"""The providers that models can run on, one record each, in order of preference.

Whatever differs between them outside their own modules is defined here. Importing this module does
not import ONNX Runtime.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from service.contract import REFERENCE_PROVIDER, Faster, ModelContract, Precision
from service.cpus import cpu_model
from service.engine import openvino_library
from service.engine.builds import install_command, installed_runtime
from service.engine.nvidia import driver_problem, gpu_name
from service.errors import ProviderError, first_line

if TYPE_CHECKING:
    from service.engine.base import ProviderOpener

AUTO = "auto"
"""Instead of a provider's name: the first in the table that works."""

CudaGraphs = Literal["auto", "off"]

PrecisionChoice = Literal["auto", "exact", "bf16", "tf32", "fp16"]
"""`exact` uses the file's own precision, `auto` a faster one if the file allows it. Named ones are
used whatever the file allows, to measure how closely they agree."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run models, as far as a provider supports it.

    A device of its own handles up to `batches` at a time: one runs while the others are stacked and
    copied. Engines share the device's thread if `shared`; otherwise closing an engine also ends the
    thread. `runtime_defaults` keeps ONNX Runtime's defaults of spinning threads and a memory arena,
    for comparison.
    """

    device_id: int = 0
    precision: PrecisionChoice = "exact"
    graphs: CudaGraphs = "auto"
    batches: int = 2
    shared: bool = True
    runtime_defaults: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider: how it is selected, detected and opened, and how the service treats it."""

    name: str
    """As in `--provider`, responses, metrics and logs."""
    title: str
    """As displayed."""
    runtime_name: str
    """ONNX Runtime's name for it, or its own library's name for the device."""
    tolerance_key: str
    """The key of its entries in a contract's tolerances."""
    opener: str
    """The `ProviderOpener` that makes its engines, as in "package.module:Class"."""
    device_name: Callable[[int], str | None]
    """Returns the name of the device with an index, for reports and the cache; None if unknown."""
    library: str = ""
    """The package that computes instead of ONNX Runtime, if any."""
    version: Callable[[], str] = installed_runtime
    """Returns the name and version of the library that computes."""
    faster: Callable[[], frozenset[Faster]] = frozenset
    """Returns the precisions that this machine computes faster than float32."""
    may_round_to: frozenset[Faster] = frozenset()
    """The precisions that some machine may compute faster than float32."""
    if_faster: bool = False
    """Whether `auto` uses it only for files with which it was measured to beat the CPU's own."""
    own_device: bool = False
    """Whether a device other than the CPU computes, one batch at a time."""
    padded: bool = False
    """Whether batches are padded to sizes prepared in advance."""
    max_batch: int = 8
    """The maximum batch size if none is set: larger ones gain little or nothing."""
    measures_max_batch: bool = False
    """Whether the best maximum batch size is measured, up to `max_batch`."""
    find_problem: Callable[[], str | None] = lambda: None
    """Returns why it can't run here although it is installed; None if it may."""
    missing: str = ""
    """What is missing if it is not installed, and how to install it."""
    hint: str = ""
    """What to check if it fails."""
    options: Callable[[EngineOptions, Precision, Faster | None], Mapping[str, Any]] = lambda *_: (
        MappingProxyType({})
    )
    """Returns its runtime's options for a file's precision and the faster one to round to."""

    def is_installed(self) -> bool:
        """Return whether its library is installed, or ONNX Runtime was built with it."""
        if self.library:
            return importlib.util.find_spec(self.library) is not None
        import onnxruntime  # noqa: PLC0415 - `prepare_runtime` comes before it

        return self.runtime_name in onnxruntime.get_available_providers()

    def problem(self) -> str | None:
        """Return why no model can run on it here; None if one may, which only a session shows.

        ONNX Runtime lists the providers it was built with, and raises no error if their libraries
        are missing: the session then runs on the CPU.
        """
        if not self.is_installed():
            return f"provider {self.name} was asked for, but {self.missing}"
        return self.find_problem()

    def lack(self) -> str | None:
        """Return the same, worded for when nobody requested it by name."""
        return self.find_problem() if self.is_installed() else self.missing

    def attest(self, path: Path, in_use: Sequence[str]) -> None:
        """Raise `ProviderError` unless this is the first provider of a file's session."""
        if in_use[0] != self.runtime_name:
            raise self._error(f"{path}: ONNX Runtime has {self.title}, but fell back to the CPU")

    def failure(self, path: Path, error: Exception) -> ProviderError:
        """Return an error that says in one line why a file does not load with it."""
        return self._error(f"{path}: does not load with provider {self.name}: {first_line(error)}")

    def _error(self, what: str) -> ProviderError:
        return ProviderError(f"{what}; {self.hint}" if self.hint else what)

    def make_opener(self, options: EngineOptions) -> ProviderOpener:
        """Create its opener of model files."""
        module, _, name = self.opener.partition(":")
        opener: ProviderOpener = getattr(importlib.import_module(module), name)(options)
        return opener


_CUDA_HINT = (
    f"is a GPU visible (`nvidia-smi`), and did {install_command('gpu')} bring the CUDA libraries? "
    "`--provider cpu` serves without a GPU"
)


def _cuda_problem() -> str | None:
    problem = driver_problem()
    return f"there is no NVIDIA driver here ({problem}); {_CUDA_HINT}" if problem else None


def on_tensor_cores(precision: Precision, rounds_to: Faster | None) -> bool:
    """Return whether to use a GPU's tensor cores.

    float16 operands have no more bits than TF32 keeps; without TF32, cuDNN's plans for tensor cores
    are skipped.
    """
    return precision == "fp16" or rounds_to == "tf32"


def _cuda_options(
    options: EngineOptions, precision: Precision, rounds_to: Faster | None
) -> dict[str, Any]:
    tensor_cores = on_tensor_cores(precision, rounds_to)
    return {
        "device_id": options.device_id,
        # An exhaustive search would time every algorithm for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": int(tensor_cores),
        # Measured: tensor cores are faster with NHWC, float32 with NCHW.
        "prefer_nhwc": int(tensor_cores),
    }


CUDA = Provider(
    name="cuda",
    title="CUDA",
    runtime_name="CUDAExecutionProvider",
    tolerance_key="cuda",
    opener="service.engine.cuda_opener:CudaOpener",
    device_name=gpu_name,
    own_device=True,
    padded=True,
    max_batch=64,
    measures_max_batch=True,
    find_problem=_cuda_problem,
    missing="this ONNX Runtime is built for the CPU only; run `pip uninstall -y onnxruntime`, "
    f"then {install_command('gpu')}",
    hint=_CUDA_HINT,
    options=_cuda_options,
    faster=lambda: frozenset({"tf32"}),
    may_round_to=frozenset({"tf32"}),
)


def _openvino_options(_: EngineOptions, __: Precision, rounds_to: Faster | None) -> dict[str, Any]:
    return {
        # Without a hint it computes in bfloat16 wherever the CPU can.
        "INFERENCE_PRECISION_HINT": openvino_library.HINTS.get(rounds_to, "f32"),
        # The threads of all models would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


OPENVINO = Provider(
    name="openvino",
    title="OpenVINO",
    runtime_name=openvino_library.DEVICE,
    library=openvino_library.PACKAGE,
    tolerance_key="openvino",
    opener="service.engine.openvino:OpenVinoOpener",
    device_name=lambda _: cpu_model(),
    version=openvino_library.version,
    faster=openvino_library.faster,
    may_round_to=frozenset({"bf16", "fp16"}),
    if_faster=True,
    find_problem=openvino_library.problem,
    missing=f"OpenVINO is not installed; run {install_command('openvino')}",
    options=_openvino_options,
)
CPU = Provider(
    name="cpu",
    title="CPU",
    runtime_name="CPUExecutionProvider",
    tolerance_key=REFERENCE_PROVIDER,
    opener="service.engine.cpu:CpuOpener",
    device_name=lambda _: cpu_model(),
)

PROVIDERS: tuple[Provider, ...] = (CUDA, OPENVINO, CPU)
"""In the order in which `auto` tries them; last the CPU, which every ONNX Runtime has."""


def rounding(provider: Provider, contract: ModelContract, asked: PrecisionChoice) -> Faster | None:
    """Return the precision to round a file's products to on a provider; None if they stay exact.

    Raises `ProviderError` if the requested precision is not supported by the device.
    """
    if asked == "exact" or contract.precision != "fp32":
        return None
    if asked == "auto":
        usable = (
            precision for precision in contract.allowed or () if precision in provider.faster()
        )
        return next(usable, None)
    if asked not in provider.faster():
        raise ProviderError(f"{provider.title} does not support {asked} on this machine")
    return asked


def provider_names() -> tuple[str, ...]:
    """List the values that select a provider."""
    return (AUTO, *sorted(provider.name for provider in PROVIDERS))


def make_openers(options: EngineOptions) -> dict[str, ProviderOpener]:
    """Create each provider's opener, by the provider's name."""
    return {provider.name: provider.make_opener(options) for provider in PROVIDERS}


def candidates(asked: str) -> tuple[Provider, ...]:
    """List the providers to try for a requested name, or for `auto` without those to be measured.

    Raises `LookupError` for an unknown name.
    """
    found = tuple(
        provider
        for provider in PROVIDERS
        if asked == provider.name or (asked == AUTO and not provider.if_faster)
    )
    if not found:
        raise LookupError(f"no provider {asked!r}; there are: {', '.join(provider_names())}")
    return found


def may_beat_cpu(contract: ModelContract, asked: PrecisionChoice) -> tuple[Provider, ...]:
    """List the installed providers that may be faster with a file than the CPU's own.

    That is, in a precision that the file allows, or with integers; in float32 they are on a par.
    """
    precisions = set(contract.allowed or ()) if asked == "auto" else set()
    return tuple(
        provider
        for provider in PROVIDERS
        if provider.if_faster
        and (contract.precision == "int8" or precisions & provider.may_round_to)
        and provider.is_installed()
    )


def title_of(tolerance_key: str) -> str:
    """Return the title of a provider that a contract names; a newer one may be unknown here."""
    titles = {provider.tolerance_key: provider.title for provider in PROVIDERS}
    return titles.get(tolerance_key, tolerance_key)
