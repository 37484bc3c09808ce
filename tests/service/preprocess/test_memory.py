"""The memory of images being decoded: a limit for all together, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from clock import Sleepers
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode, photo
from waiting import wait_until

from service.contract import Preprocessing
from service.errors import ImageTooLargeError
from service.preprocess.decode import DecodePolicy, decode, read
from service.preprocess.memory import DecodingMemory

RULE = Preprocessing(resize=64, crop=64, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 30))
def test_no_more_is_held_than_allowed_and_what_never_fits_is_refused(sizes, limit):
    memory = DecodingMemory(limit)
    held: list[int] = []
    lock = threading.Lock()
    wrong: list[list[int]] = []

    def work(size: int) -> None:
        with memory.hold(size):
            with lock:
                held.append(size)
                if sum(held) > limit:
                    wrong.append([*held])
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(work, size) for size in sizes]
        errors = [future.exception(60) for future in futures]
    assert [isinstance(error, ImageTooLargeError) for error in errors] == [
        size > limit for size in sizes
    ]
    assert not wrong
    assert memory.held == 0


def crowded(limit: int) -> tuple[DecodingMemory, Sleepers]:
    """A memory, and who waits for room in it."""
    line = Sleepers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Condition", lambda: line)
        return DecodingMemory(limit), line


def test_a_further_image_waits_for_room():
    memory, line = crowded(10)
    begun = threading.Event()

    def work() -> None:
        with memory.hold(6):
            begun.set()

    with memory.hold(6):
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: line.asleep == 1)
        assert not begun.is_set()
        assert memory.held == 6
    assert begun.wait(60)
    thread.join()


def test_small_images_do_not_pass_a_large_one_that_waits():
    """Or a stream of them would keep it out for ever, and its thread with it."""
    (memory, line), order = crowded(10), list[str]()

    def work(name: str, size: int) -> None:
        with memory.hold(size):
            order.append(name)

    with memory.hold(6):
        large = threading.Thread(target=work, args=("large", 10))
        large.start()
        wait_until(lambda: line.asleep == 1)
        small = threading.Thread(target=work, args=("small", 1))
        small.start()
        wait_until(lambda: line.asleep == 2)
        assert order == []
    large.join()
    small.join()
    assert order == ["large", "small"]


class Asked(DecodingMemory):
    """Notes what is asked for."""

    def hold(self, size: int, spare: int = 0):
        self.asked = size
        return super().hold(size, spare)


@pytest.mark.parametrize(
    ("image_format", "options", "per_pixel"),
    [("JPEG", {}, 8), ("PNG", {}, 5), ("WEBP", {}, 17), ("JPEG", {"progressive": True}, 8 + 6)],
)
def test_what_a_format_takes_counts(image_format, options, per_pixel):
    memory = Asked()
    data = encode(photo(100, 80, 1), image_format, **options)
    decode(data, RULE, DecodePolicy(10**6, 0, memory))
    assert 0 <= memory.asked - 100 * 80 * per_pixel <= 2 * len(data), "and copies of the file"


def test_a_reduced_jpeg_counts_as_what_it_is_decoded_to_but_for_its_coefficients():
    plain, progressive = Asked(), Asked()
    image = photo(1024, 1024, 1)
    files = encode(image, "JPEG"), encode(image, "JPEG", progressive=True)
    decode(files[0], RULE, DecodePolicy(10**7, 4, plain))
    decode(files[1], RULE, DecodePolicy(10**7, 4, progressive))
    assert plain.asked == 256 * 256 * 8 + 2 * len(files[0])
    assert progressive.asked == 256 * 256 * 8 + 1024 * 1024 * 6 + 2 * len(files[1])


def test_an_image_that_alone_would_take_more_than_allowed_is_refused_with_both_numbers():
    """38 bytes of WebP can ask for a gigabyte."""
    data = encode(photo(100, 80, 1), "WEBP")
    policy = DecodePolicy(10**6, 0, DecodingMemory(100 * 80 * 17))
    with pytest.raises(ImageTooLargeError, match=r"some 13\d{4} bytes.*at most 136000") as refusal:
        decode(data, RULE, policy)
    assert "max_decoding_bytes" in str(refusal.value)
    assert policy.memory.held == 0


def test_what_may_be_taken_beyond_keeps_others_out_and_refuses_nobody():
    memory = DecodingMemory(10)
    with memory.hold(4, 3):
        assert memory.held == 7
    with memory.hold(4, 300):
        assert memory.held == 10
    with pytest.raises(ImageTooLargeError), memory.hold(11, 3):
        pass
    assert memory.held == 0


def test_a_lossless_webp_may_take_more_than_its_pixels():
    """Each 4 x 4 of them may have tables of their own, which no header tells of."""
    lossless = encode(photo(64, 64), "WEBP", lossless=True)
    assert 100_000 < read(lossless, 10**6).spare_bytes() <= 256 * 6000
    assert read(encode(photo(64, 64), "WEBP"), 10**6).spare_bytes() == 0


def test_the_time_that_a_thread_waited_for_room_is_told():
    (memory, line), waited = crowded(10), list[float]()

    def work() -> None:
        with memory.hold(6):
            waited.append(memory.waited_s())

    with memory.hold(6):
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: line.asleep == 1)
    thread.join()
    assert waited[0] > 0
    assert memory.waited_s() < waited[0], "of another thread"
