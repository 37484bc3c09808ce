"""Engines that a test can hold, break and look into; they stand for slow or failing hardware."""

from __future__ import annotations

import threading

import numpy as np


def hold(client) -> HeldEngine:
    """Let the only model of a client's server wait at a gate that the test opens."""
    (model,) = client.app.state.service.repository
    engine, inner = HeldEngine(), model.engine.run

    def run(images: np.ndarray) -> np.ndarray:
        engine.run(images)
        return inner(images)

    model.engine.run = run
    return engine


class HeldEngine:
    """Answers each image with its first pixel's value; waits at a gate; fails when told to."""

    provider = "cpu"
    tf32 = False

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.fail_with: BaseException | None = None
        self.poison: int | None = None  # an image of this value fails the batch that it is in
        self.closed = False

    def run(self, images: np.ndarray) -> np.ndarray:
        self.batches.append([int(image.flat[0]) for image in images])
        self.entered.release()
        if not self.open.wait(20):
            raise TimeoutError("the test left the gate shut")
        if self.fail_with is not None:
            raise self.fail_with
        if self.poison in self.batches[-1]:
            raise RuntimeError(f"the value {self.poison}")
        return images.reshape(len(images), -1)[:, :1].astype(np.float32)

    def close(self) -> None:
        self.closed = True
