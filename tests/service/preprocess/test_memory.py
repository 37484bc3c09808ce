"""The memory of images being decoded: a limit for all together, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from service.preprocess.memory import BYTES_PER_PIXEL, PixelMemory


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 30))
def test_no_more_is_held_than_allowed_but_for_a_larger_image_alone(sizes, limit):
    memory = PixelMemory(limit * BYTES_PER_PIXEL)
    held: list[int] = []
    lock = threading.Lock()
    wrong: list[list[int]] = []

    def decode(pixels: int) -> None:
        with memory.hold(pixels):
            with lock:
                held.append(pixels)
                if sum(held) > limit and len(held) > 1:
                    wrong.append([*held])
            with lock:
                held.remove(pixels)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(decode, pixels) for pixels in sizes]:
            future.result(20)
    assert not wrong
    assert memory.held == 0


def test_a_further_image_waits_for_room():
    memory = PixelMemory(10 * BYTES_PER_PIXEL)
    begun = threading.Event()

    def decode() -> None:
        with memory.hold(6):
            begun.set()

    with memory.hold(6):
        thread = threading.Thread(target=decode)
        thread.start()
        assert not begun.wait(0.05)
        assert memory.held == 6 * BYTES_PER_PIXEL
    assert begun.wait(20)
    thread.join()
