"""Reading what the service's own metrics give."""

from __future__ import annotations

import pytest

from service.bench.exposition import (
    BATCH_SIZE,
    CPU_SECONDS,
    RESIDENT_BYTES,
    batch_sizes,
    parse_exposition,
)
from service.metrics import Metrics


def scraped(metrics: Metrics):
    return parse_exposition(metrics.render().decode())


def test_values_and_labels_are_read_from_real_metrics():
    metrics = Metrics()
    metrics.for_model('a"b\\c', 1).batch_size.observe(3)
    read = scraped(metrics)
    assert read.value("process_resident_memory_bytes") > 1e6
    assert read.value("process_cpu_seconds_total") > 0
    assert read.buckets(BATCH_SIZE, 'a"b\\c')[4] == 1
    assert read.value("of_this_name_there_is_none") is None


def test_batches_between_two_scrapes_are_counted_by_size():
    metrics = Metrics()
    color, other = metrics.for_model("color", 1), metrics.for_model("other", 1)
    color.batch_size.observe(1)
    before = scraped(metrics)
    for size in (1, 1, 2, 3, 4, 8, 300):
        color.batch_size.observe(size)
    other.batch_size.observe(1)
    after = scraped(metrics)
    assert batch_sizes(before, after, "color") == {"1": 2, "2": 1, "3-4": 2, "5-8": 1, "257+": 1}
    assert batch_sizes(before, after, None)["1"] == 3
    assert batch_sizes(after, after, None) == {}


def test_what_is_no_exposition_is_empty():
    assert parse_exposition("<html>\nnot found 404x\n# HELP a b\n").series == {}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e308", "x", ""])
def test_a_value_that_counts_nothing_is_passed_over(value):
    text = f"{CPU_SECONDS} {value}\n{RESIDENT_BYTES} 1\n"
    assert parse_exposition(text).series == {RESIDENT_BYTES: [({}, 1.0)]}


@pytest.mark.parametrize("labels", ['{le="x"}', '{le="NaN"}', '{le=""}', '{a="1"}', ""])
def test_a_bucket_without_a_bound_is_passed_over(labels):
    name = f"{BATCH_SIZE}_bucket"
    after = parse_exposition(f'{name}{labels} 1\n{name}{{le="1"}} 2\n{name}{{le="+Inf"}} 3\n')
    assert batch_sizes(parse_exposition(""), after, None) == {"1": 2, "2+": 1}
