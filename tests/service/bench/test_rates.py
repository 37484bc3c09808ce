"""Images a second of work on threads."""

from __future__ import annotations

import pytest

from service.bench.rates import rate_between


@pytest.mark.parametrize(
    ("ends", "rate"),
    [
        ([], 0.0),
        ([(1.0, 8)], 0.0),
        ([(1.0, 8), (3.0, 8)], 4.0),
        ([(0.5, 1), (1.0, 2), (2.5, 8)], 5.0),
    ],
)
def test_batches_count_between_the_end_of_one_and_the_end_of_another(ends, rate):
    """The first one began before, so only the time at which it ended counts."""
    assert rate_between(ends) == rate
