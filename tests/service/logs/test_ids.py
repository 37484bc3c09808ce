"""Ids of requests: safe in headers and in logs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.logs import request_id


@pytest.mark.parametrize("offered", [b"a", b"abc-123.X:y_z", b"0" * 128])
def test_a_well_formed_id_is_kept(offered):
    assert request_id(offered) == offered.decode()


@pytest.mark.parametrize(
    "offered",
    [None, b"", b"0" * 129, b"-a", b"a b", b"a\n", b"a\r\nX: y", b"\xff", b'"', b"a;b", b"a/b"],
)
def test_any_other_id_is_replaced(offered):
    assert re.fullmatch(r"[0-9a-f]{32}", request_id(offered))


def test_made_ids_are_all_different():
    assert len({request_id(None) for _ in range(1000)}) == 1000


@given(offered=st.binary(max_size=140) | st.text("aZ09._:-\n", max_size=140).map(str.encode))
@settings(max_examples=200)
def test_no_id_holds_what_could_break_a_header_or_a_line(offered):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", request_id(offered))
