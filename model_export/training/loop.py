"""The training loop: epochs of steps, each evaluated on held-out images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from model_export.errors import ImagesError, TrainingError
from model_export.progress import counted
from model_export.training.data import EpochOrder, TrainingImages, ValidationImages
from model_export.training.recipe import Recipe, add_noise, averaged, optimiser_for
from model_export.training.state import Metrics
from service.contract import Preprocessing
from service.errors import first_line

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network in training, with all its state."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        preprocessing: Preprocessing,
        data: tuple[TrainingImages, ValidationImages],
        *,
        device: torch.device,
        workers: int,
    ) -> None:
        self.recipe, self._device = recipe, device
        self.network = network.to(device)
        self.average = AveragedModel(
            self.network, multi_avg_fn=averaged(recipe.ema_decay), use_buffers=True
        )
        self._optimiser = optimiser_for(self.network, recipe)
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp == "fp16")
        training, validation = data
        self._order = EpochOrder(len(training), recipe.seed)
        batch = min(recipe.batch, len(training))
        pinned = device.type == "cuda"
        torch.backends.cudnn.deterministic = True  # a resumed run must end the same way
        self._training: DataLoader[tuple[Tensor, int]] = DataLoader(
            training, batch, sampler=self._order, num_workers=workers, drop_last=True,
            pin_memory=pinned,
        )  # fmt: skip
        self._validation: DataLoader[tuple[Tensor, int]] = DataLoader(
            validation, batch, num_workers=workers, pin_memory=pinned
        )
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocessing.mean, device=device).view(shape) * 255
        self._std = torch.tensor(preprocessing.std, device=device).view(shape) * 255
        self.epoch = 0

    def run_epoch(self) -> Metrics:
        """Train for an epoch and evaluate the averaged parameters; raises `TrainingError`."""
        started = time.perf_counter()
        self._order.epoch, self._order.side = self.epoch, self.recipe.side_at(self.epoch)
        # For dropout: an epoch's random numbers don't depend on what was before it.
        torch.manual_seed(self.recipe.seed + self.epoch)
        self.network.train()
        steps = len(self._training)
        total = 0.0
        for step, (x, target) in enumerate(self._batches(self._training, f"epoch {self.epoch}")):
            rate = self.recipe.learning_rate_at(self.epoch * steps + step, steps)
            total += self._step(x, target, rate, self.epoch * steps + step)
        metrics = {
            "epoch": self.epoch,
            "learning_rate": rate,
            "train_loss": total / steps,
            **self._judge(),
            "seconds": time.perf_counter() - started,
        }
        if not math.isfinite(metrics["val_loss"]):
            raise self._diverged()
        self.epoch += 1
        return metrics

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        return {
            "epoch": self.epoch,
            "model": self.network.state_dict(),
            "model_ema": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["model"])
        self.average.load_state_dict(state["model_ema"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])

    def _step(self, x: Tensor, target: Tensor, rate: float, step: int) -> float:
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        try:
            with self._autocast():
                loss = functional.cross_entropy(
                    self.network(x), target, label_smoothing=self.recipe.label_smoothing
                )
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged()
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            if self.recipe.optimiser == "sgd-noise":
                self._scaler.unscale_(self._optimiser)
                add_noise(self.network, step, self.recipe.seed)
            self._scaler.step(self._optimiser)
            self._scaler.update()
            self.average.update_parameters(self.network)
        except (RuntimeError, ValueError) as error:
            raise _failed("train on", x, error) from error
        return value

    def _diverged(self) -> TrainingError:
        return TrainingError(
            f"the loss is not finite any more in epoch {self.epoch}; a lower --learning-rate or "
            "more --warmup-epochs may help"
        )

    def _judge(self) -> Metrics:
        self.average.eval()
        loss, top1, top5, count = 0.0, 0, 0, 0
        with torch.inference_mode(), self._autocast():
            for x, target in self._batches(self._validation, "validation"):
                try:
                    logits = self.average(x).float()
                except (RuntimeError, ValueError) as error:
                    raise _failed("run", x, error) from error
                loss += float(functional.cross_entropy(logits, target, reduction="sum"))
                best = logits.topk(min(5, logits.shape[1])).indices == target[:, None]
                top1 += int(best[:, 0].sum())
                top5 += int(best.sum())
                count += len(target)
        return {"val_loss": loss / count, "val_top1": top1 / count, "val_top5": top5 / count}

    def _batches(
        self, loader: DataLoader[tuple[Tensor, int]], title: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = iter(loader)  # forks the workers, so before the bar has a thread
        with counted() as bar:
            task = bar.add_task(title, total=len(loader))
            while (batch := _next(batches)) is not None:
                images, target = batch
                x = images.to(self._device, non_blocking=True).float().contiguous()
                yield (x - self._mean) / self._std, torch.as_tensor(target).to(self._device)
                bar.update(task, advance=1)

    def _autocast(self) -> Any:
        if self.recipe.amp == "off":
            return nullcontext()
        return torch.autocast(self._device.type, _AMP_TYPES[self.recipe.amp])


def _failed(what: str, x: Tensor, error: Exception) -> TrainingError:
    """Return the error for a failed step, as when images are too small or memory too short."""
    return TrainingError(
        f"PyTorch can't {what} {len(x)} images of {x.shape[-1]} pixels at a time: "
        f"{first_line(error)}"
    )


def _next(batches: Iterator[Any]) -> tuple[Tensor, Tensor] | None:
    try:
        return next(batches, None)
    except ImagesError as error:
        # An error from a worker process comes with that process's traceback in front.
        raise ImagesError(str(error).strip().rpartition("ImagesError: ")[2]) from error
    except RuntimeError as error:
        raise TrainingError(f"a process that decodes images ended: {error}") from error
