"""Groups of images, and their results in order."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UnreadableImageError
from service.streams import Content, groups_of, in_order

CONTENTS = st.lists(
    st.binary(max_size=9) | st.builds(UnreadableImageError, st.just("no")), max_size=40
)


def size(group: Sequence[Content]) -> int:
    return sum(len(each) for each in group if isinstance(each, bytes))


@given(CONTENTS, st.integers(1, 5), st.integers(1, 20))
def test_groups_are_the_images_in_order_within_the_limits(contents, most_images, most_bytes):
    groups = list(groups_of(iter(contents), most_images, most_bytes))
    assert [each for group in groups for each in group] == contents
    assert all(1 <= len(group) <= most_images for group in groups)
    assert all(size(group) <= most_bytes or len(group) == 1 for group in groups)


@given(CONTENTS, st.integers(1, 5), st.integers(1, 20), st.randoms())
def test_results_are_in_order_whichever_group_ends_first(contents, most, most_bytes, random):
    under_way: list[tuple[Future[list[int]], Sequence[Content]]] = []

    def end_one() -> None:
        future, group = under_way.pop(random.randrange(len(under_way)))
        future.set_result([id(each) for each in group])

    class Waiting(Future):
        def result(self, timeout=None):
            while not self.done():  # as a waiting caller would see it
                end_one()
            return super().result(timeout)

    def start(group):
        held = sum(size(other) for _, other in under_way)
        assert len(under_way) < most
        assert held + size(group) <= most_bytes or not under_way
        future: Future[list[int]] = Waiting()
        under_way.append((future, group))
        if random.random() < 0.3:
            end_one()
        return future

    groups = groups_of(contents, 3, most_bytes)
    assert list(in_order(groups, start, most, most_bytes)) == [id(each) for each in contents]


def test_those_under_way_are_cancelled_when_one_fails_or_the_caller_stops():
    futures: list[Future[list[int]]] = []

    def start(_):
        futures.append(Future())
        return futures[-1]

    def groups():
        yield [b"1"]
        yield [b"2"]
        futures[0].set_exception(ValueError("failed"))
        yield [b"3"]

    with pytest.raises(ValueError, match="failed"):
        list(in_order(groups(), start, 5, 100))
    assert futures[1].cancelled()


def test_what_is_done_is_not_held_back():
    done: Future[list[str]] = Future()
    done.set_result(["first"])
    taken = []

    def groups():
        for number in range(9):
            taken.append(number)
            yield [b"x"]

    assert next(in_order(groups(), lambda _: done, 8, 100)) == "first"
    assert taken == [0, 1]
