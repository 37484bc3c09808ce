"""The files in `examples/` name routes, settings and metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from system import program

from service.http.routes import OPERATIONS
from service.metrics import Metrics
from service.settings import PREFIX, Settings

EXAMPLES = Path(__file__).parent.parent / "examples"


def read(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def test_the_rules_of_prometheus_use_metrics_and_labels_that_exist():
    metrics = Metrics()
    metrics.count_request("/v1/classify", "POST", 200, 0.1)
    metrics.count_refusal("queue_full")
    model = metrics.for_model("m", 1)
    model.show_info(architecture="a", precision="fp32", provider="cpu", computed_in="fp32")
    known: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    rules = re.sub(r"^ *- record: .*$|#.*", "", read("prometheus-rules.yaml"), flags=re.MULTILINE)
    used = re.findall(r"(resnet_serve_\w+)(?:\{(\w+)=)?", rules)
    assert used
    for name, label in used:
        assert name in known, name
        assert not label or label in known[name], (name, label)


def test_kubernetes_asks_routes_and_sets_settings_that_exist():
    text = read("kubernetes.yaml")
    assert set(re.findall(r"path: (/\w+),", text)) <= {each.path for each in OPERATIONS}
    names = re.findall(rf"name: {PREFIX}(\w+)", text)
    assert {name.lower() for name in names} <= set(Settings.model_fields)
    grace_s = int(re.findall(r"terminationGracePeriodSeconds: (\d+)", text)[0])
    delay_s = float(re.findall(r'DRAIN_DELAY_S, value: "(\d+)"', text)[0])
    assert grace_s > delay_s + Settings().drain_timeout_s


@pytest.mark.full
def test_nginx_takes_its_configuration(tmp_path):
    around = tmp_path / "nginx.conf"
    around.write_text(
        f"error_log stderr; pid {tmp_path}/pid; events {{}}\n"
        f"http {{ access_log off; include {EXAMPLES / 'nginx.conf'}; }}\n"
    )
    command = [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(around)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "test is successful" in ended.stderr, ended.stderr
    limit = re.findall(r"client_max_body_size (\d+)m;", read("nginx.conf"))
    assert [int(size) * 2**20 for size in limit] == [Settings().max_body_bytes]
