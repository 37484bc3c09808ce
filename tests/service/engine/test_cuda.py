"""The engine for a GPU, over a session with the manners of ONNX Runtime's CUDA provider."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from color_model import WEIGHT, reference, write_color_model
from engines import FakeEngine
from fake_gpu import (
    CAPTURING,
    ILLEGAL_ACCESS,
    OUT_OF_MEMORY,
    PLAN_S,
    FakeDevice,
    FakeSession,
    batch_s,
    fake_gpu,
)
from structlog.testing import capture_logs

from service.contract import INPUT_NAME, PROBABILITIES
from service.engine.base import Engine, probabilities
from service.engine.cuda import CudaEngine, GpuModel
from service.engine.providers import CUDA
from service.errors import DeviceLostError, DeviceMemoryError, ProviderError, SessionFailedError
from service.golden import golden_pattern

SIDE = 8
SIZES = (1, 2, 4, 8)


class Host:
    """A device and the engines that a test opens on it."""

    def __init__(self, folder, *, pinned: bool) -> None:
        self.folder = folder
        self.device = FakeDevice()
        self.gpu = fake_gpu(self.device, pinned=pinned)

    def open(self, *, graphs=True, batches=2, extra_outputs=False, sizes=SIZES) -> CudaEngine:
        path = write_color_model(self.folder / f"{extra_outputs}.onnx", extra_outputs=extra_outputs)
        extra = ("embedding", "features", "classifier_weight") if extra_outputs else ()
        model = GpuModel(
            "color", {}, 3, (None,) * 3, (SIDE, SIDE), (PROBABILITIES, *extra), "NCHW", None
        )
        engine = CudaEngine(
            self.gpu,
            model,
            lambda with_graphs: self.device.open(path, graphs=with_graphs),
            graphs=graphs,
            batches=batches,
            device="cpu",
        )
        if sizes:
            engine.prepare(sizes)
        return engine


@pytest.fixture(params=[True, False], ids=["pinned", "pageable"])
def host(tmp_path, request):
    host = Host(tmp_path, pinned=request.param)
    yield host
    host.gpu.close(10)
    assert host.device.wrong == []


@pytest.fixture
def pinned(tmp_path):
    host = Host(tmp_path, pinned=True)
    yield host
    host.gpu.close(10)
    assert host.device.wrong == []


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    return [golden_pattern(seed + number, SIDE) for number in range(count)]


def right(pixels: list[np.ndarray]) -> np.ndarray:
    return np.array([reference(image) for image in pixels], np.float32)


# Answers


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", range(1, 9))
def test_each_image_of_a_batch_has_its_own_answer_whatever_it_is_padded_to(host, graphs, count):
    engine = host.open(graphs=graphs)
    for seed in (0, 100, 200):
        pixels = images(count, seed)
        answers = probabilities(engine, pixels)
        assert answers.shape == (count, 3)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, right(pixels), atol=1e-5)


def test_an_answer_stays_what_it_is_when_further_batches_run(host):
    engine = host.open()
    first = probabilities(engine, images(2))
    kept = first.copy()
    probabilities(engine, images(2, seed=50))
    np.testing.assert_array_equal(first, kept)


def test_graphs_give_what_plain_runs_give_to_the_bit(host):
    graphs, plain = host.open(), host.open(graphs=False)
    for count in range(1, 9):
        pixels = images(count, seed=count)
        np.testing.assert_array_equal(probabilities(graphs, pixels), probabilities(plain, pixels))


def test_the_outputs_that_are_asked_for_are_given_and_no_others(host):
    engine = host.open(extra_outputs=True)
    pixels = images(3)
    answers = engine.run(pixels, ("embedding", "features"))
    assert sorted(answers) == ["embedding", "features"]
    stacked = np.stack(pixels).astype(np.float32)
    np.testing.assert_allclose(answers["embedding"], stacked.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(answers["features"], stacked.transpose(0, 3, 1, 2))


def test_the_classifiers_weight_is_read_once_before_any_capture_and_bound_to_nothing(host):
    engine = host.open(extra_outputs=True)
    (session,) = host.device.sessions
    for binding in session.captured.values():
        assert binding.outputs == [PROBABILITIES, "embedding", "features"]
    runs = session.runs
    for _ in range(2):
        answers = engine.run(images(1), ("classifier_weight", PROBABILITIES))
        np.testing.assert_array_equal(answers["classifier_weight"], WEIGHT)
    assert session.runs == runs + 2


def test_an_output_that_the_file_lacks_is_an_error_and_the_next_batch_works(host):
    engine = host.open()
    with pytest.raises(KeyError, match="embedding"):
        engine.run(images(1), ("embedding",))
    assert probabilities(engine, images(1)).shape == (1, 3)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ([], "0 images"),
        ([golden_pattern(1, SIDE)] * 9, "9 images; prepared are batches of"),
        ([golden_pattern(1, 9)], r"\[9, 9, 3\], the model takes uint8 \[8, 8, 3\]"),
        ([golden_pattern(1, SIDE).astype(np.float32)], "float32"),
    ],
)
def test_a_wrong_batch_is_an_error_and_the_next_one_works(host, pixels, said):
    engine = host.open()
    with pytest.raises(ValueError, match=said):
        probabilities(engine, pixels)
    assert probabilities(engine, images(1)).shape == (1, 3)


def test_a_closed_engine_runs_nothing(host):
    engine = host.open()
    engine.close()
    host.gpu.call(lambda: None)
    with pytest.raises(ValueError, match="prepared are batches of"):
        probabilities(engine, images(1))


def test_who_waits_for_room_when_the_engine_is_closed_is_told(pinned):
    """And waits for nothing for ever; the batch under way is answered."""
    engine = pinned.open(batches=1)
    begun, go = threading.Event(), threading.Event()
    pinned.device.on_run.append(lambda _: begun.set() or go.wait(60))
    with ThreadPoolExecutor(3) as threads:
        runs = threads.submit(probabilities, engine, images(1))
        assert begun.wait(60)
        waiting = [threads.submit(probabilities, engine, images(1)) for _ in range(2)]
        engine.close()
        go.set()
        np.testing.assert_allclose(runs.result(), right(images(1)), atol=1e-5)
        for one in waiting:
            with pytest.raises((ValueError, KeyError)):
                one.result()


# One thread, and no size planned anew


class Naive(FakeEngine):
    """Runs batches as they come, on the thread that comes with them."""

    provider = CUDA

    def __init__(self, session: FakeSession) -> None:
        self._session = session

    def run(self, pixels, outputs):
        answers = self._session.run(list(outputs), {INPUT_NAME: np.stack(pixels)})
        return dict(zip(outputs, answers, strict=True))


def seconds_of(engine: Engine, device: FakeDevice, size: int) -> float:
    before = device.now
    probabilities(engine, images(size))
    return device.now - before


def check_no_size_is_planned_anew(engine: Engine, device: FakeDevice) -> None:
    order = [*SIZES * 2, *reversed(SIZES)]
    random.Random(7).shuffle(order)
    for size in order:
        assert seconds_of(engine, device, size) == pytest.approx(batch_s(size))


def check_any_thread_may_run(engine: Engine) -> None:
    def work(seed: int) -> None:
        pixels = images(1 + seed % 8, seed)
        np.testing.assert_allclose(probabilities(engine, pixels), right(pixels), atol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(64)))


@pytest.mark.parametrize("graphs", [True, False])
def test_no_size_is_planned_anew_after_it_was_made_ready(host, graphs):
    check_no_size_is_planned_anew(host.open(graphs=graphs), host.device)


@pytest.mark.parametrize("graphs", [True, False])
def test_any_thread_may_run_and_one_thread_does(host, graphs):
    """The session itself refuses any but the thread that made it."""
    check_any_thread_may_run(host.open(graphs=graphs))


def test_these_checks_fail_an_engine_that_runs_batches_as_they_come(host, tmp_path):
    path = write_color_model(tmp_path / "naive.onnx")
    engine = Naive(host.device.open(path, graphs=False))
    for size in SIZES:
        probabilities(engine, images(size))  # warming it up does not help
    with pytest.raises(AssertionError):
        check_no_size_is_planned_anew(engine, host.device)
    assert [seconds_of(engine, host.device, size) > PLAN_S for size in (8, 1, 8)][1:] == [True] * 2
    with pytest.raises(RuntimeError, match="made on another thread"):
        check_any_thread_may_run(engine)


def test_all_graphs_live_in_one_session_and_plain_sizes_in_one_each(host):
    host.open()
    assert len(host.device.sessions) == 1
    assert len(host.device.sessions[0].captured) == len(SIZES)
    host.open(graphs=False)
    assert len(host.device.sessions) == 1 + len(SIZES)


def test_what_is_no_more_wanted_is_freed_and_what_stays_is_not_captured_again(host):
    engine = host.open()
    (session,) = host.device.sessions
    engine.prepare((1, 2))
    assert engine.sizes == (1, 2)
    assert session.runs == len(SIZES)
    with pytest.raises(ValueError, match="3 images; prepared are batches of"):
        probabilities(engine, images(3))
    check_any = probabilities(engine, images(2))
    np.testing.assert_allclose(check_any, right(images(2)), atol=1e-5)


# Graphs that can't be had


def test_a_model_that_can_have_no_graphs_gets_a_session_for_each_size_and_the_log_says_why(host):
    host.device.fail["open with graphs"] = (
        "This session cannot use the graph capture feature\nas requested"
    )
    with capture_logs() as logs:
        engine = host.open()
    assert engine.attested["cuda_graphs"] is False
    assert [(log["event"], log["detail"]) for log in logs] == [
        ("cuda_graphs_off", "This session cannot use the graph capture feature")
    ]
    check_no_size_is_planned_anew(engine, host.device)
    np.testing.assert_allclose(probabilities(engine, images(3)), right(images(3)), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_a_session_whose_capture_failed_is_abandoned(host, size):
    """What the driver holds of it is undone with it, and no batch may meet that."""
    host.device.fail[f"capture {size}"] = CAPTURING
    with capture_logs() as logs:
        engine = host.open()
    assert [(log["event"], log["detail"]) for log in logs] == [("cuda_graphs_off", CAPTURING)]
    assert engine.attested["cuda_graphs"] is False
    check_no_size_is_planned_anew(engine, host.device)
    check_any_thread_may_run(engine)


def test_without_graphs_asked_for_nothing_is_said(host):
    with capture_logs() as logs:
        engine = host.open(graphs=False)
    assert logs == []
    assert engine.attested["cuda_graphs"] is False


def test_a_provider_that_does_not_work_is_not_tried_twice(host):
    def refuse(graphs: bool):
        host.device.sessions.append(graphs)
        raise ProviderError("fell back to the CPU")

    model = GpuModel("color", {}, 3, (None,) * 3, (SIDE, SIDE), (PROBABILITIES,), "NCHW", None)
    with pytest.raises(ProviderError, match="fell back"):
        CudaEngine(host.gpu, model, refuse, graphs=True, batches=2, device="cpu")
    assert host.device.sessions == [True]


# Failures


def test_too_little_memory_is_told_as_that_and_is_no_reason_to_go_without_graphs(host):
    host.device.fail["capture 8"] = OUT_OF_MEMORY
    with capture_logs() as logs, pytest.raises(DeviceMemoryError, match="out of memory"):
        host.open()
    assert logs == []
    assert host.gpu.lost is None


def test_after_a_failure_a_session_runs_nothing_more_and_another_engine_does(host):
    engine, other = host.open(), host.open()
    host.device.fail["run"] = OUT_OF_MEMORY
    with pytest.raises(SessionFailedError):
        probabilities(engine, images(1))
    del host.device.fail["run"]
    with pytest.raises(SessionFailedError, match="out of memory"):
        probabilities(engine, images(1))
    with pytest.raises(SessionFailedError):
        engine.prepare((1,))
    assert probabilities(other, images(1)).shape == (1, 3)


def test_a_batch_that_was_handed_over_before_the_failure_does_not_run_after_it(pinned):
    engine = pinned.open()
    (session,) = pinned.device.sessions
    begun, go = threading.Event(), threading.Event()

    def hold(size: int) -> None:
        begun.set()
        assert go.wait(60)
        raise RuntimeError(OUT_OF_MEMORY)

    pinned.device.on_run.append(hold)
    before = len(pinned.gpu.runtime.copies)
    with ThreadPoolExecutor(2) as threads:
        failing = threads.submit(probabilities, engine, images(1))
        assert begun.wait(60)
        behind = threads.submit(probabilities, engine, images(2))
        while len(pinned.gpu.runtime.copies) < before + 3:
            pass
        go.set()
        for run in (failing, behind):
            with pytest.raises(SessionFailedError, match="out of memory"):
                run.result()
    assert session.runs == len(SIZES), "of making it ready"


@pytest.mark.parametrize("then", ["closed", "dropped"])
def test_nothing_of_a_failed_session_is_kept(pinned, then):
    """The next one needs its memory."""
    gc.disable()
    try:
        engine = pinned.open()
        session = weakref.ref(pinned.device.sessions.pop())
        pinned.device.fail["run"] = OUT_OF_MEMORY
        with contextlib.suppress(SessionFailedError):
            probabilities(engine, images(1))
        if then == "closed":
            engine.close()
        else:
            del engine
        pinned.gpu.call(lambda: None)
        assert session() is None
    finally:
        gc.enable()


def test_a_size_that_was_dropped_and_is_wanted_again_is_captured_anew(host):
    """Its old graph stays in the session, and reads and writes what was freed."""
    engine = host.open()
    engine.prepare((1, 2))
    engine.prepare((1, 2, 4))
    pixels = images(4, seed=30)
    np.testing.assert_allclose(probabilities(engine, pixels), right(pixels), atol=1e-5)


def test_the_devices_own_times_are_told(host):
    engine = host.open()
    before = time.perf_counter()
    outputs = engine.run(images(1), (PROBABILITIES,))
    assert before <= outputs.began_at <= outputs.ended_at <= time.perf_counter()


def test_an_error_that_sticks_to_the_context_loses_the_gpu_for_every_engine(host):
    engine, other = host.open(), host.open()
    losses: list[DeviceLostError] = []
    host.gpu.watch(losses.append)
    host.device.fail["run"] = ILLEGAL_ACCESS
    with pytest.raises(DeviceLostError, match="700"):
        probabilities(engine, images(1))
    runs = [session.runs for session in host.device.sessions]
    for each in (engine, other):
        with pytest.raises(DeviceLostError, match="700"):
            probabilities(each, images(1))
    assert [session.runs for session in host.device.sessions] == runs
    assert len(losses) == 1
    assert host.gpu.trouble(60) == f"the GPU was lost: {ILLEGAL_ACCESS}"


def test_of_a_lost_gpu_nothing_is_freed(host):
    """The driver may hang in it, and the process is about to end."""
    engine = host.open()
    host.device.fail["run"] = ILLEGAL_ACCESS
    with pytest.raises(DeviceLostError):
        probabilities(engine, images(1))
    buffers = len(host.gpu.runtime.buffers) if host.gpu.runtime else 0
    engine.close()
    host.gpu.close(10)
    assert (len(host.gpu.runtime.buffers) if host.gpu.runtime else 0) == buffers


def test_an_error_that_is_not_cudas_costs_its_batch_alone(host):
    engine = host.open()
    host.device.fail["run"] = "a node's own complaint"
    with pytest.raises(RuntimeError, match="complaint"):
        probabilities(engine, images(1))
    del host.device.fail["run"]
    assert probabilities(engine, images(1)).shape == (1, 3)


# Copies


def test_the_next_batch_is_copied_while_one_runs_and_not_to_where_that_reads(pinned):
    engine = pinned.open()
    copied, ran = threading.Event(), []

    def while_it_runs(size: int) -> None:
        ran.append(size)
        if len(ran) == 1:
            assert copied.wait(60), "the other batch is copied meanwhile"

    pinned.device.on_run.append(while_it_runs)
    runtime = pinned.gpu.runtime
    synchronize, before = runtime.synchronize, len(runtime.copies)

    def synchronized(stream: int) -> None:
        synchronize(stream)
        if len(runtime.copies) == before + 3:  # the first batch's two, and the other's first
            copied.set()

    runtime.synchronize = synchronized
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(probabilities, engine, images(4))
        while not ran:
            pass
        two = threads.submit(probabilities, engine, images(3, seed=70))
        np.testing.assert_allclose(one.result(), right(images(4)), atol=1e-5)
        np.testing.assert_allclose(two.result(), right(images(3, seed=70)), atol=1e-5)
    assert ran == [4, 4]


def test_nothing_is_copied_while_another_model_captures(pinned):
    """A capture fails when another thread uses the device meanwhile."""
    engine = pinned.open()
    other = pinned.open(sizes=())
    begun, go = threading.Event(), threading.Event()

    def hold(size: int) -> None:
        if size == -8:
            begun.set()
            assert go.wait(60)

    pinned.device.on_run.append(hold)
    with ThreadPoolExecutor(2) as threads:
        preparing = threads.submit(other.prepare, (1, 8))
        assert begun.wait(60)
        running = threads.submit(probabilities, engine, images(2))
        while not pinned.gpu.copying.locked():
            pass
        go.set()
        preparing.result()
        np.testing.assert_allclose(running.result(), right(images(2)), atol=1e-5)
    assert other.attested["cuda_graphs"] is True


def test_only_the_images_of_a_batch_are_copied(pinned):
    engine = pinned.open()
    before = len(pinned.gpu.runtime.copies)
    probabilities(engine, images(5))
    size = 5 * SIDE * SIDE * 3
    assert [copied for _, copied in pinned.gpu.runtime.copies[before:]] == [size, size]


def test_all_pinned_memory_is_given_back(pinned):
    first, second = pinned.open(), pinned.open(batches=3)
    second.prepare((1, 2))
    for engine in (first, second):
        engine.close()
    pinned.gpu.call(lambda: None)
    assert pinned.gpu.runtime.buffers == {}


def test_a_copy_that_fails_for_good_loses_the_gpu(pinned):
    engine = pinned.open()
    pinned.device.sticky = 700
    with pytest.raises(DeviceLostError):
        probabilities(engine, images(1))
    assert pinned.gpu.lost is not None


def test_memory_is_known_once_something_is_ready(pinned):
    assert pinned.gpu.memory is None
    pinned.open()
    memory: Any = pinned.gpu.memory
    assert (memory.used, memory.total) == (20 * 2**30, 80 * 2**30)


def test_what_was_taken_is_told(host):
    kind = "pinned" if host.gpu.runtime else "pageable"
    assert host.open().attested == {"cuda_graphs": True, "layout": "NCHW", "copies": kind}


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_so_many_batches_are_under_way_at_most(pinned, batches):
    engine = pinned.open(batches=batches)
    go, filled = threading.Event(), itertools.count(1)
    most = []

    def hold(size: int) -> None:
        assert go.wait(60)

    pinned.device.on_run.append(hold)
    runtime = pinned.gpu.runtime
    copy = runtime.copy

    def counted(target, source, size, kind, stream):
        if kind == 1:
            most.append(next(filled))
            if len(most) == batches:
                go.set()
        copy(target, source, size, kind, stream)

    runtime.copy = counted
    with ThreadPoolExecutor(5) as threads:
        runs = [threads.submit(probabilities, engine, images(1, seed)) for seed in range(5)]
        for seed, run in enumerate(runs):
            np.testing.assert_allclose(run.result(), right(images(1, seed)), atol=1e-5)
