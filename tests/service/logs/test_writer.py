"""The log's file: whoever reads it, nobody who logs waits."""

from __future__ import annotations

import io
import json
import os
import threading

from typing_extensions import Buffer

from service.logs import LogWriter


class Reader(io.BytesIO):
    """A log's file that can be blocked, or fail once."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.fail_next = False
        self.pieces: list[bytes] = []

    def write(self, data: Buffer) -> int:
        self.begun.set()
        assert self.open.wait(60)
        if self.fail_next:
            self.fail_next = False
            raise OSError("no space left on device")
        self.pieces.append(bytes(data))
        return super().write(data)


def told(reader: Reader) -> list[str]:
    return reader.getvalue().decode().splitlines()


def dropped(lines: list[str]) -> int:
    return sum(json.loads(line)["count"] for line in lines if line.startswith("{"))


def test_the_writer_loses_no_line_and_keeps_each_writers_order():
    reader = Reader()
    writer = LogWriter(reader)

    def write(name: int) -> None:
        for number in range(300):
            writer.write(f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(20)
    written = told(reader)
    assert len(written) == 1200
    for name in range(4):
        own = [line for line in written if line.startswith(f"{name} ")]
        assert own == [f"{name} {number}" for number in range(300)]


def test_what_finds_no_room_is_dropped_and_counted():
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader, room=3)
    for number in range(20):
        writer.write(f"{number}\n")
    reader.open.set()
    writer.close(20)
    lines = told(reader)
    assert [line for line in lines if not line.startswith("{")] == ["0", "1", "2"]
    assert dropped(lines) == 17


def test_lines_that_wait_are_bounded_in_bytes_too():
    """Few long ones, of two bytes a character, fill it as many short ones do."""
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader, room_bytes=1000)
    for _ in range(10):
        writer.write("ä" * 200 + "\n")
    reader.open.set()
    writer.close(20)
    lines = told(reader)
    assert sum(not line.startswith("{") for line in lines) == 2
    assert dropped(lines) == 8


def test_what_is_being_written_counts_against_the_room():
    """Else a reader that has stopped would have it twice over in memory."""
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader, room=1)
    writer.write("being written\n")
    assert reader.begun.wait(60)
    writer.write("beside it\n")
    reader.open.set()
    writer.close(20)
    lines = told(reader)
    assert [lines[0], dropped(lines)] == ["being written", 1]


def test_there_is_room_again_after_a_stall():
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader, room=1)
    for number in range(3):
        writer.write(f"{number}\n")
    reader.open.set()
    while dropped(told(reader)) < 2:
        pass
    writer.write("later\n")
    writer.close(20)
    assert told(reader)[-1] == "later"


def test_a_reader_that_does_not_read_holds_up_neither_writing_nor_closing():
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader)
    writer.write("waits\n")
    writer.close(0.05)
    assert told(reader) == []
    reader.open.set()


def test_a_write_that_fails_costs_only_its_own_lines_and_is_counted():
    reader = Reader()
    writer = LogWriter(reader)
    reader.fail_next = True
    writer.write("lost\n")
    while reader.fail_next:
        pass
    writer.write("kept\n")
    writer.close(20)
    lines = told(reader)
    assert "kept" in lines
    assert "lost" not in lines
    assert dropped(lines) == 1


def test_a_file_that_can_never_be_written_does_not_keep_the_writer_from_closing():
    reader = Reader()
    reader.close()
    before = {*threading.enumerate()}
    writer = LogWriter(reader)
    (thread,) = {*threading.enumerate()} - before
    writer.write("lost\n")
    writer.close(20)
    assert not thread.is_alive()


def test_lines_go_out_in_pieces_that_a_pipe_takes_whole():
    """Another process writes to the same pipe; a longer line than that is one piece of its own."""
    reader = Reader()
    reader.open.clear()
    writer = LogWriter(reader)
    for _ in range(200):
        writer.write("x" * 99 + "\n")
    writer.write("y" * 10_000 + "\n")
    reader.open.set()
    writer.close(20)
    assert all(piece.endswith(b"\n") for piece in reader.pieces)
    assert sorted(map(len, reader.pieces))[-2:] == [4000, 10_001]


def test_a_file_that_takes_a_part_only_gets_the_rest():
    class Slow(Reader):
        def write(self, data: Buffer) -> int:
            return super().write(bytes(data)[:7])

    reader = Slow()
    writer = LogWriter(reader)
    writer.write("a line of some length\n")
    writer.close(20)
    assert told(reader) == ["a line of some length"]


def test_a_pipe_that_is_full_and_non_blocking_is_waited_for():
    """Whoever shares it may have made it so."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(read, "rb") as reader, open(write, "wb", buffering=0) as file:  # noqa: PTH123
        writer = LogWriter(file)
        for number in range(2000):
            writer.write(f"{number:099}\n")
        closing = threading.Thread(target=writer.close, args=(20,))
        closing.start()
        lines = [reader.readline() for _ in range(2000)]
        closing.join()
    assert [int(line) for line in lines] == [*range(2000)]
