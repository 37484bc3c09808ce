"""The service's HTTP interface: status, headers, codes, keys and values must not change.

`pytest tests/integration/test_exchanges.py --record` records the current answers; an intended
difference is then visible in the commit, and belongs in the changelog.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from exchanges import FLAGS, answers, requests, write_models
from process import serving

RECORDED = Path(__file__).with_name("exchanges.json")


@pytest.fixture(scope="module")
def urls(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start the servers and yield their URLs by name."""
    folders = write_models(tmp_path_factory.mktemp("models"))
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                serving("--models", folders[name], "--runners", 1, "--intra-op-threads", 1, *flags)
            ).url
            for name, flags in FLAGS.items()
        }


def test_every_exchange_is_as_it_was_recorded(urls, pytestconfig):
    found = {name: answers(urls[server], data) for server, name, data in requests()}
    if pytestconfig.option.record:
        lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in found)
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        pytest.skip("recorded")
    recorded = json.loads(RECORDED.read_text())
    assert found.keys() == recorded.keys()
    different = {
        name: {"recorded": recorded[name], "found": found[name]}
        for name in found
        if found[name] != recorded[name]
    }
    assert not different, json.dumps(different, indent=1)
