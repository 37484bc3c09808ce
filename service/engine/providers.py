"""The providers of ONNX Runtime that models can run on: a record each, in the order of preference.

All that differs between them outside of their modules is said here. Nothing of it needs ONNX
Runtime to be imported.
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
"""Asked for in the place of a name: the first of the table that works."""

CudaGraphs = Literal["auto", "off"]

PrecisionChoice = Literal["auto", "exact", "bf16", "tf32", "fp16"]
"""Exact is as a file states it; auto takes a faster one that the file allows; a named one is taken
whatever the file says, to measure how far it agrees."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How models are to run, as far as a provider can do it.

    `batches` are under way at a time on a device of its own: one runs, the others are stacked and
    copied. Engines share what the device has for itself unless they are not `shared`; then each
    ends it with itself. With `runtime_defaults`, threads that wait spin and memory comes from an
    arena, as ONNX Runtime has it by itself: for comparison. What a provider compiles is kept in
    `cache_dir`, if there is one.
    """

    device_id: int = 0
    precision: PrecisionChoice = "exact"
    cache_dir: Path | None = None
    graphs: CudaGraphs = "auto"
    batches: int = 2
    shared: bool = True
    runtime_defaults: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: how it is asked for, found and opened, and how the service is to treat it."""

    name: str
    """As `--provider`, answers, metrics and logs have it."""
    title: str
    """As people write it."""
    runtime_name: str
    """ONNX Runtime's own, or what the library of its own calls the device."""
    tolerance_key: str
    """Of its entries among a contract's tolerances."""
    opener: str
    """The `ProviderOpener` that makes its engines, as in "package.module:Class"."""
    device_name: Callable[[int], str | None]
    """Names the device of a number, for reports and the cache; None where it can't be told."""
    library: str = ""
    """The package that computes in the place of ONNX Runtime."""
    version: Callable[[], str] = installed_runtime
    """Names what computes, and its version."""
    faster: Callable[[], frozenset[Faster]] = frozenset
    """Finds to what float32 products can be rounded here, to be computed faster."""
    may_round_to: frozenset[Faster] = frozenset()
    """The same for all machines that it may run on."""
    if_faster: bool = False
    """Whether `auto` takes it only for a file with which it was measured to beat the CPU."""
    own_device: bool = False
    """Whether a device beside the CPU computes, one batch after the other."""
    padded: bool = False
    """Whether batches are padded to sizes that were made ready."""
    max_batch: int = 8
    """Largest batch where none is set: larger ones gain nothing, or hardly anything."""
    measures_max_batch: bool = False
    """Whether the largest batch that pays is measured, up to `max_batch`."""
    find_problem: Callable[[], str | None] = lambda: None
    """Says why it can't run here though ONNX Runtime has it; None if it may."""
    missing: str = ""
    """What to do where the installed ONNX Runtime does not have it."""
    hint: str = ""
    """What to look at where it fails."""
    options: Callable[[EngineOptions, Precision, Faster | None], Mapping[str, Any]] = lambda *_: (
        MappingProxyType({})
    )
    """What its runtime is given, for a file of that precision, rounded to a faster one or not."""

    def is_installed(self) -> bool:
        """Return whether its library is installed, or ONNX Runtime was built with it."""
        if self.library:
            return importlib.util.find_spec(self.library) is not None
        import onnxruntime  # noqa: PLC0415 - `prepare_runtime` comes before it

        return self.runtime_name in onnxruntime.get_available_providers()

    def problem(self) -> str | None:
        """Say why no model can run on it here; None if one may, which only its session knows.

        ONNX Runtime lists a provider when it was built with it, and raises nothing when libraries
        are missing: the session then runs on the CPU.
        """
        if not self.is_installed():
            return f"provider {self.name} was asked for, but {self.missing}"
        return self.find_problem()

    def lack(self) -> str | None:
        """Say the same where nobody asked for it by name."""
        return self.find_problem() if self.is_installed() else self.missing

    def attest(self, path: Path, in_use: Sequence[str]) -> None:
        """Raise `ProviderError` unless a file's session says first that it runs on this one."""
        if in_use[0] != self.runtime_name:
            raise self._error(f"{path}: ONNX Runtime has {self.title}, but fell back to the CPU")

    def failure(self, path: Path, error: Exception) -> ProviderError:
        """Make the error that says, in a line, why a file does not load with it."""
        return self._error(f"{path}: does not load with provider {self.name}: {first_line(error)}")

    def _error(self, what: str) -> ProviderError:
        return ProviderError(f"{what}; {self.hint}" if self.hint else what)

    def make_opener(self, options: EngineOptions) -> ProviderOpener:
        """Make what opens model files on it."""
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
    """Return whether a GPU's tensor cores compute.

    Of float16 the operands have no more bits than TF32 keeps; without TF32, cuDNN's plans for
    tensor cores are passed over.
    """
    return precision == "fp16" or rounds_to == "tf32"


def _cuda_options(
    options: EngineOptions, precision: Precision, rounds_to: Faster | None
) -> dict[str, Any]:
    tensor_cores = on_tensor_cores(precision, rounds_to)
    return {
        "device_id": options.device_id,
        # Exhaustive search would time every algorithm again for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": int(tensor_cores),
        # Measured: tensor cores are faster with NHWC, and float32 with NCHW.
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


def _openvino_options(
    options: EngineOptions, _: Precision, rounds_to: Faster | None
) -> dict[str, Any]:
    given: dict[str, Any] = {
        # Without a hint it computes in bfloat16 wherever the CPU can.
        "INFERENCE_PRECISION_HINT": openvino_library.HINTS.get(rounds_to, "f32"),
        # Several models' threads, and those that decode, would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    if options.cache_dir is not None:
        given[openvino_library.CACHE_DIR] = str(options.cache_dir / openvino_library.PACKAGE)
    return given


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
"""In the order in which `auto` tries them; the CPU, which every ONNX Runtime has, is the last."""


def rounding(provider: Provider, contract: ModelContract, asked: PrecisionChoice) -> Faster | None:
    """Return what a file's products are to be rounded to on a provider; None leaves them exact.

    Raises `ProviderError` where a precision is asked for that the device does not have.
    """
    if asked == "exact" or contract.precision != "fp32":
        return None
    if asked == "auto":
        usable = (
            precision for precision in contract.allowed or () if precision in provider.faster()
        )
        return next(usable, None)
    if asked not in provider.faster():
        raise ProviderError(f"{provider.title} does not compute in {asked} on this machine")
    return asked


def provider_names() -> tuple[str, ...]:
    """List what can be asked for."""
    return (AUTO, *sorted(provider.name for provider in PROVIDERS))


def make_openers(options: EngineOptions) -> dict[str, ProviderOpener]:
    """Return each provider's opener by the provider's name; none is in use yet."""
    return {provider.name: provider.make_opener(options) for provider in PROVIDERS}


def candidates(asked: str) -> tuple[Provider, ...]:
    """List the providers to try for what was asked for; raises `LookupError` for another name.

    Without those that have to be measured before `auto` may take them.
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
    """List the installed providers that may compute a file faster than the CPU's own.

    That is in a precision that the file allows, or in integers. Held to float32 they are alike.
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
    """Return how people write a provider that a contract names; it may be of another release."""
    titles = {provider.tolerance_key: provider.title for provider in PROVIDERS}
    return titles.get(tolerance_key, tolerance_key)
