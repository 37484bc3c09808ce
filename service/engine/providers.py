"""The providers of ONNX Runtime that models can run on: a record each, in the order of preference.

All that differs between them outside of their modules is said here. Nothing of it needs ONNX
Runtime to be imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from service.contract import REFERENCE_PROVIDER, Precision
from service.cpus import cpu_model
from service.engine.builds import install_command
from service.engine.nvidia import driver_problem, gpu_name
from service.errors import ProviderError, first_line

if TYPE_CHECKING:
    from service.engine.base import ProviderOpener

AUTO = "auto"
"""Asked for in the place of a name: the first of the table that works."""

CudaGraphs = Literal["auto", "off"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How models are to run, as far as a provider can do it.

    `batches` are under way at a time on a device of its own: one runs, the others are stacked and
    copied. Engines share what the device has for itself unless they are not `shared`; then each
    ends it with itself. With `runtime_defaults`, threads that wait spin and memory comes from an
    arena, as ONNX Runtime has it by itself: for comparison.
    """

    device_id: int = 0
    tf32: bool = False
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
    """ONNX Runtime's own."""
    tolerance_key: str
    """Of its entries among a contract's tolerances."""
    opener: str
    """The `ProviderOpener` that makes its engines, as in "package.module:Class"."""
    device_name: Callable[[int], str | None]
    """Names the device of a number, for reports and the cache; None where it can't be told."""
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
    options: Callable[[EngineOptions, Precision], Mapping[str, Any]] = lambda *_: MappingProxyType(
        {}
    )
    """The options that ONNX Runtime's provider takes, for a file of that precision."""

    def is_in_runtime(self) -> bool:
        """Return whether the installed ONNX Runtime was built with it."""
        import onnxruntime  # noqa: PLC0415 - `prepare_runtime` comes before it

        return self.runtime_name in onnxruntime.get_available_providers()

    def problem(self) -> str | None:
        """Say why no model can run on it here; None if one may, which only its session knows.

        ONNX Runtime lists a provider when it was built with it, and raises nothing when libraries
        are missing: the session then runs on the CPU.
        """
        if not self.is_in_runtime():
            return f"provider {self.name} was asked for, but {self.missing}"
        return self.find_problem()

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


def _cuda_options(options: EngineOptions, precision: Precision) -> dict[str, Any]:
    # Of float16 the operands have no more bits than TF32 keeps; without it, cuDNN's plans for
    # tensor cores are passed over.
    tensor_cores = options.tf32 or precision == "fp16"
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
)
CPU = Provider(
    name="cpu",
    title="CPU",
    runtime_name="CPUExecutionProvider",
    tolerance_key=REFERENCE_PROVIDER,
    opener="service.engine.cpu:CpuOpener",
    device_name=lambda _: cpu_model(),
)

PROVIDERS: tuple[Provider, ...] = (CUDA, CPU)
"""In the order in which `auto` tries them; the CPU, which every ONNX Runtime has, is the last."""


def provider_names() -> tuple[str, ...]:
    """List what can be asked for."""
    return (AUTO, *sorted(provider.name for provider in PROVIDERS))


def candidates(asked: str) -> tuple[Provider, ...]:
    """List the providers to try for what was asked for; raises `LookupError` for another name."""
    found = tuple(provider for provider in PROVIDERS if asked in (AUTO, provider.name))
    if not found:
        raise LookupError(f"no provider {asked!r}; there are: {', '.join(provider_names())}")
    return found


def title_of(tolerance_key: str) -> str:
    """Return how people write a provider that a contract names; it may be of another release."""
    titles = {provider.tolerance_key: provider.title for provider in PROVIDERS}
    return titles.get(tolerance_key, tolerance_key)
