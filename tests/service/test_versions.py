"""Which version answers requests that name none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsError
from service.settings import load_settings
from service.versions import VersionPolicy, draw

VERSIONS = st.integers(1, 999_999_999)
SHARES = st.dictionaries(VERSIONS, st.integers(1, 999_999), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("text", "versions", "shares"),
    [
        ("latest", [1, 3, 2], {3: 1}),
        ("latest", [], {}),
        ("2", [1, 2, 3], {2: 1}),
        ("2", [1, 3], {}),
        ("1:90,2:10", [1, 2, 3], {1: 0.9, 2: 0.1}),
        ("1:90,2:10", [2], {2: 1}),
        (" 1:1 , 2:3 ", [1, 2], {1: 0.25, 2: 0.75}),
    ],
)
def test_shares_are_of_the_versions_that_are_there(text, versions, shares):
    assert VersionPolicy.parse(text).of(versions) == shares


@pytest.mark.parametrize(
    "text",
    ["", "newest", "0", "-1", "1:", "1:0", "1:2,1:3", "1:90,2", "1:90,latest", "1:0.5", "\u0661"],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="must be latest, a version as in 2, or shares"):
        VersionPolicy.parse(text)


@given(SHARES)
def test_a_policy_is_written_as_it_is_read(shares):
    text = ",".join(f"{version}:{share}" for version, share in shares.items())
    policy = VersionPolicy.parse(text)
    assert VersionPolicy.parse(str(policy)) == policy
    assert sum(policy.of(shares).values()) == pytest.approx(1)


@given(SHARES, st.text(), st.text())
def test_a_retry_goes_to_the_same_version(shares, name, request_id):
    policy = VersionPolicy(shares)
    chosen = policy.choose(shares, name, request_id)
    assert chosen in shares
    assert policy.choose(list(shares), name, request_id) == chosen


def test_requests_are_shared_out_as_asked():
    policy = VersionPolicy.parse("1:80,2:20")
    chosen = [policy.choose([1, 2], "color", str(number)) for number in range(10_000)]
    # 40 is one standard deviation of the binomial; the ids are fixed, so this can't vary.
    assert abs(chosen.count(2) - 2000) < 160


def test_models_are_drawn_independently():
    together = sum(draw("a", str(i)) < 0.5 and draw("b", str(i)) < 0.5 for i in range(10_000))
    assert abs(together - 2500) < 200


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=latest", {"a": "latest"}),
        ("a=2,b=1:90,2:10,c=1:1,3:2", {"a": "2", "b": "1:90,2:10", "c": "1:1,3:2"}),
    ],
)
def test_the_setting_takes_several_models(text, found):
    settings, _ = load_settings({"model_versions": text}, {})
    assert settings.model_versions == found


@pytest.mark.parametrize("text", ["2", "a=", "a=x", "a=1,a=2", "a=1:90,x:10"])
def test_the_setting_says_what_is_wrong(text):
    with pytest.raises(SettingsError, match=r"--model-versions.*(must be|twice)") as caught:
        load_settings({"model_versions": text}, {})
    assert len(str(caught.value).splitlines()) == 1
