"""Flags: judged in one place, refused in one line."""

from __future__ import annotations

import argparse
import re

import pytest

from service.bench.cli import add_bench
from service.bench.errors import OptionError
from service.bench.options import BenchOptions, _flag, read_options


def parsed(*flags: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_bench(parser.add_subparsers(dest="command"))
    arguments = vars(parser.parse_args(["bench", *flags]))
    assert arguments.pop("command") == "bench"
    return arguments


def test_flags_become_options():
    options = read_options(parsed(
        "--url", "http://127.0.0.1:9", "--mode", "poisson", "--sweep", "10,20.5", "--warm-up", "0",
        "--deadline-ms", "100", "--json", "out.json", "--limits",
    ))  # fmt: skip
    assert options.sweep == (10, 20.5)
    assert (options.warm_up, options.deadline_ms, options.limits) == (0, 100, True)
    assert str(options.json_file) == "out.json"


def test_limits_alone_need_no_server():
    assert read_options({"limits": True}).target_url is None
    assert read_options({"limits": True, "url": "http://127.0.0.1:1"}).target_url is not None
    assert read_options({}).target_url == "http://127.0.0.1:8000"


def test_limits_beside_a_load_take_the_flags_of_both():
    flags = {"limits": True, "url": "http://127.0.0.1:1", "clients": "5", "repeats": "2"}
    assert read_options(flags | {"model_file": "m.onnx"}).clients == 5
    assert read_options({"limits": True, "model_file": "m.onnx", "repeats": "2"}).repeats == 2
    assert read_options({"reference": "local", "model_file": "m.onnx"}).model_file is not None


def test_no_flag_can_be_shortened(capsys):
    with pytest.raises(SystemExit):
        parsed("--dead", "5")


def test_the_help_states_the_shape_of_bursts_and_every_flag(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "3x the mean rate for 1 s every 5 s" in text
    assert "--mode {closed,poisson,burst,trace}" in text
    assert "--rate N mean arrivals per second (poisson, burst); a number above 0" in text
    assert "exit status: 0 no wrong answers" in text
    for name in BenchOptions.model_fields:
        assert re.search(rf"{_flag(name)}(?![\w-])", text), name


def test_the_help_has_groups_and_examples(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = capsys.readouterr().out
    for title in ("requests", "load", "expected answers", "measurement", "reports"):
        assert f"\n{title}:\n" in text
    assert "examples:\n  resnet-serve bench" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"clients": "none"}, "^--clients: must be a whole number from 1 to 10000, got 'none'$"),
        ({"rate": "x"}, "^--rate: must be a number above 0, got 'x'$"),
        ({"images": "synthetic:0x7"}, "--images: must be synthetic or synthetic:WIDTHxHEIGHT"),
        ({"json_file": "-", "html_file": "-"}, "only one can go to stdout"),
        ({"clients": "0"}, "--clients"),
        ({"duration": "nan"}, "--duration"),
        ({"mode": "sometimes"}, "--mode"),
        ({"mode": "poisson"}, "needs --rate or --sweep"),
        ({"mode": "poisson", "sweep": "10,x"}, "--sweep"),
        ({"rate": "5"}, "go with --mode poisson or burst"),
        ({"mode": "trace"}, "--mode trace and --trace go together"),
        ({"trace": "t"}, "--mode trace and --trace go together"),
        ({"json_file": ""}, "--json"),
        ({"path": "classify"}, "--path: must begin with /"),
        ({"path": "/classify?a=b c"}, "--path"),
        ({"path": "/classify", "top_k": "2"}, "own path"),
        ({"path": "/classify", "model": "m"}, "own path"),
        ({"no_deadline_header": True}, "goes with --deadline-ms"),
        ({"processes": "-1"}, "--processes"),
        ({"processes": "some"}, "--processes.*'some'"),
        ({"processes": "1000", "clients": "1000"}, "--processes"),
        ({"processes": "9"}, "--processes: each needs one of the 8 clients"),
        (
            {"processes": "3", "connections": "2", "mode": "poisson", "rate": "1"},
            "--processes: each needs one of the 2 connections",
        ),
        ({"mode": "poisson", "rate": "5", "sweep": "5,6"}, "--rate and --sweep: only one"),
        ({"mode": "poisson", "rate": "5", "clients": "5"}, "--clients goes with --mode closed"),
        ({"connections": "5"}, "--connections goes with --mode poisson, burst or trace"),
        ({"repeats": "5"}, "--repeats goes with --limits"),
        ({"model_file": "m.onnx"}, "--model-file goes with --reference local or --limits"),
        ({"limits": True, "clients": "5"}, "^--clients: --limits alone sends no load; add --url$"),
        ({"limits": True, "server_pid": "1"}, "^--server-pid: --limits alone sends no load"),
        ({"json_file": "r", "html_file": "r"}, "--json and --html: only one can go to r"),
        ({"deadline_ms": "1e300"}, "^--deadline-ms: must be a number .* 86400000, got '1e300'$"),
        (
            {"mode": "poisson", "rate": "1e12", "warm_up": "0", "duration": "1"},
            "1e\\+12 arrivals per second for 1 s are more than 10,000,000",
        ),
        ({"mode": "burst", "sweep": "1,1e9"}, "^1e\\+09 arrivals per second for 12 s"),
        ({"clients": "0", "top_k": "0"}, "--clients.*--top-k|--top-k.*--clients"),
    ],
)
def test_a_bad_flag_is_named_in_one_line(flags, said):
    with pytest.raises(OptionError, match=said) as refused:
        read_options(flags)
    assert "\n" not in str(refused.value)
