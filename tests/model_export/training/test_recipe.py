"""Learning rates, noise, averages: by their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import random_network

from model_export.training.recipe import Recipe, add_noise, averaged, optimiser_for


def recipe(**changes) -> Recipe:
    fields: dict[str, Any] = {
        "epochs": 10, "batch": 8, "optimiser": "sgd", "learning_rate": 0.4, "weight_decay": 1e-4,
        "warmup_epochs": 2.0, "label_smoothing": 0.1, "ema_decay": 0.99,
        "sizes": ((16, 4), (32, 6)), "seed": 0, "amp": "off",
    }  # fmt: skip
    return Recipe(**(fields | changes))


@given(st.integers(1, 50), st.floats(0, 4), st.integers(5, 30))
def test_the_rate_grows_to_its_peak_and_falls_to_zero(steps: int, warmup: float, epochs: int):
    plan = recipe(epochs=epochs, warmup_epochs=warmup, sizes=((16, epochs),))
    rates = [plan.learning_rate_at(step, steps) for step in range(epochs * steps)]
    peak = math.ceil(warmup * steps)
    assert all(0 < rate <= 0.4 + 1e-9 for rate in rates)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert plan.learning_rate_at(epochs * steps, steps) == pytest.approx(0, abs=1e-9)


def test_the_rate_is_half_a_cosine():
    plan = recipe(warmup_epochs=0.0)
    assert plan.learning_rate_at(0, 10) == pytest.approx(0.4)
    assert plan.learning_rate_at(50, 10) == pytest.approx(0.2)
    assert plan.learning_rate_at(25, 10) == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))


def test_sizes_follow_one_another():
    assert [recipe().side_at(epoch) for epoch in (0, 3, 4, 9)] == [16, 16, 32, 32]


def test_weights_decay_and_normalisations_do_not():
    network = random_network()
    decayed, others = optimiser_for(network, recipe()).param_groups
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}
    assert (decayed["weight_decay"], others["weight_decay"]) == (1e-4, 0.0)
    count = len(decayed["params"]) + len(others["params"])
    assert count == len(list(network.parameters()))


@pytest.mark.parametrize("step", [0, 100])
def test_gradient_noise_has_the_papers_variance_and_is_repeatable(step: int):
    layer = torch.nn.Linear(300, 300, bias=False)
    noises = []
    for seed in (0, 0, 1):
        layer.weight.grad = torch.zeros(300, 300)
        add_noise(layer, step, seed)
        noises.append(layer.weight.grad)
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])
    assert noises[0].var().item() == pytest.approx(0.01 / (1 + step) ** 0.55, rel=0.02)


def test_an_average_follows_closely_at_first_and_slowly_in_the_end():
    follow = averaged(0.99)
    for count, moved in ((0, 0.9), (10, 1 - 11 / 20), (10_000, 0.01)):
        averages = [torch.zeros(1), torch.tensor(3)]
        follow(averages, [torch.ones(1), torch.tensor(7)], torch.tensor(count))
        assert averages[0].item() == pytest.approx(moved)
        assert averages[1].item() == 7  # a count of steps is no average
