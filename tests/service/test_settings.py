"""Settings: flags over environment over defaults, and every mistake named."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import SettingsError
from service.settings import PREFIX, Settings, add_flags, load_settings

FIELDS = sorted(Settings.model_fields)
NUMBERS = [name for name in FIELDS if Settings.model_fields[name].annotation in (int, float)]
bounded = settings(max_examples=200)


def loaded(flags: dict[str, object] | None = None, /, **environ: str) -> Settings:
    """Settings of flags and of variables, named without their prefix."""
    return load_settings(flags or {}, {PREFIX + name: value for name, value in environ.items()})[0]


def refusal(flags: dict[str, object] | None = None, /, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(flags, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_set_gives_the_defaults():
    assert load_settings({}, {}) == (Settings(), ())


def test_the_defaults_are_safe():
    """Only this machine, no other origin, nothing without a limit."""
    defaults = Settings()
    assert defaults.host == "127.0.0.1"
    assert defaults.cors_origins == ()
    assert defaults.max_body_bytes <= defaults.max_inflight_bytes < 2**30
    assert defaults.max_image_pixels <= 50_000_000


def test_a_flag_wins_over_the_environment_and_that_over_the_default():
    assert loaded().max_batch == 0, "measured"
    assert loaded(MAX_BATCH="3").max_batch == 3
    assert loaded({"max_batch": "5"}, MAX_BATCH="3").max_batch == 5
    assert loaded({"max_batch": None}, MAX_BATCH="3").max_batch == 3


def test_a_flag_can_turn_off_what_the_environment_turns_on():
    assert loaded({"builtin": False}, BUILTIN="true").builtin is False
    assert loaded({"cors_origins": ""}, CORS_ORIGINS="https://a.example").cors_origins == ()


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_a_description_a_flag_and_a_variable(name):
    """The table in docs/settings.md and --help are made of them."""
    assert Settings.model_fields[name].description
    parser = argparse.ArgumentParser()
    add_flags(parser)
    flag = "--" + name.replace("_", "-")
    assert flag in parser.format_help()
    switch = Settings.model_fields[name].annotation is bool
    parsed = vars(parser.parse_args([flag] if switch else [flag, "x"]))
    assert parsed[name] == (True if switch else "x")
    assert all(value is None for other, value in parsed.items() if other != name)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["a lot", "-1", "nan", "1e400"])
def test_a_bad_number_is_named_by_its_flag_and_its_variable(name, value):
    for message in (refusal({name: value}), refusal(**{name.upper(): value})):
        assert "--" + name.replace("_", "-") in message
        assert PREFIX + name.upper() in message
        assert repr(value) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provider", "tpu"),
        ("log_format", "xml"),
        ("optimize_for", "both"),
        ("log_level", "loud"),
        ("builtin", "maybe"),
        ("port", "65536"),
        ("max_batch", "-1"),
        ("max_batch", "2.5"),
        ("max_image_pixels", "178956971"),
        ("body_timeout_s", "0"),
        ("models", ""),
    ],
)
def test_a_value_outside_its_range_is_named(name, value):
    assert "--" + name.replace("_", "-") in refusal({name: value})


def test_all_bad_settings_are_named_at_once():
    message = refusal({"port": "x"}, MAX_BATCH="-1", PROVIDER="tpu")
    for name in ("--port", "--max-batch", "--provider"):
        assert name in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_images": "9", "max_queue": "8"}, "max_images is larger than max_queue"),
        ({"tf32": "true", "precision": "exact"}, "tf32: TF32 is not exact"),
        (
            {"max_body_bytes": "101", "max_inflight_bytes": "100"},
            "max_body_bytes is larger than max_inflight_bytes",
        ),
        ({"jpeg_draft_ratio": "1.9"}, "jpeg_draft_ratio"),
        ({"jpeg_draft_ratio": "0.1"}, "jpeg_draft_ratio"),
        ({"grpc_port": "8000"}, "grpc_port is a port of HTTP"),
        ({"grpc_port": "9000", "metrics_port": "9000"}, "grpc_port is a port of HTTP"),
        ({"metrics_port": "8000"}, "metrics_port: must be another port"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes, said):
    """Each is good alone; together some request could never be answered."""
    assert said in refusal(dict(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_images": "8", "max_queue": "8"},
        {"max_body_bytes": "100", "max_inflight_bytes": "100"},
        {"jpeg_draft_ratio": "0"},
        {"jpeg_draft_ratio": "2"},
    ],
)
def test_settings_at_the_edge_of_fitting_together_are_accepted(changes):
    assert isinstance(loaded(dict(changes)), Settings)


def test_the_cache_is_where_the_users_caches_are():
    assert load_settings({}, {}, Path("/caches"))[0].cache_dir == Path("/caches")
    assert load_settings({}, {}, None)[0].cache_dir is None


def test_the_cache_can_be_set_and_turned_off():
    home = Path("/caches")
    for off in ("none", ""):
        assert load_settings({"cache_dir": off}, {}, home)[0].cache_dir is None
    assert load_settings({}, {PREFIX + "CACHE_DIR": "none"}, home)[0].cache_dir is None
    assert load_settings({"cache_dir": "x"}, {}, home)[0].cache_dir == Path("x")
    assert load_settings({}, {PREFIX + "CACHE_DIR": "/x"}, home)[0].cache_dir == Path("/x")


@pytest.mark.parametrize("name", ["MAX_BACH", "max_batch", "Max_Batch", "", "MODEL_CONFIG"])
def test_an_unknown_variable_is_named(name):
    """A misspelt limit must not be a limit that is not there."""
    assert PREFIX + name in refusal(**{name: "4"})


def test_all_unknown_variables_are_named_at_once():
    message = refusal(MAX_BACH="4", POORT="1")
    assert "RESNET_SERVE_MAX_BACH, RESNET_SERVE_POORT" in message


def test_variables_of_others_are_none_of_ours():
    environ = {"PATH": "/bin", "PORT": "x", "RESNET_SERVER_PORT": "x", "resnet_serve_port": "x"}
    assert load_settings({}, environ) == (Settings(), ())


# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables, for
# Services called resnet-serve and resnet-serve-gpu.
SERVICE_LINKS = {
    "SERVICE_HOST": "10.0.0.11",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT": "tcp://10.0.0.11:8000",
    "PORT_8000_TCP": "tcp://10.0.0.11:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.0.0.11",
    "PORT_53_UDP_ADDR": "10.0.0.11",
    "GPU_SERVICE_HOST": "10.0.0.12",
    "GPU_PORT": "tcp://10.0.0.12:8000",
    "GPU_PORT_8000_TCP_ADDR": "10.0.0.12",
}


def test_service_links_of_kubernetes_are_passed_over_with_a_warning_each():
    environ = {PREFIX + name: value for name, value in SERVICE_LINKS.items()}
    result, warnings = load_settings({}, environ)
    assert result == Settings()
    assert len(warnings) == len(SERVICE_LINKS)
    for name in environ:
        assert sum(warning.startswith(f"{name} ") for warning in warnings) == 1


def test_a_port_that_is_a_number_is_no_service_link():
    assert loaded(PORT="8123").port == 8123


@pytest.mark.parametrize("name", FIELDS)
def test_a_variable_set_to_nothing_is_not_set(name):
    """Compose files do so: `RESNET_SERVE_MODELS: ${MODELS:-}`."""
    assert loaded(**{name.upper(): ""}) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example", ("https://a.example",)),
        ("https://a.example, http://b.example:81", ("https://a.example", "http://b.example:81")),
        (" , ,", ()),
        ("*", ("*",)),
    ],
)
def test_a_list_is_separated_by_commas(text, expected):
    assert loaded(CORS_ORIGINS=text).cors_origins == expected
    assert loaded({"cors_origins": text}).cors_origins == expected


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("shop.example", "has no scheme, as in 'https://shop.example'"),
        ("localhost:3000", "has no scheme, as in 'https://localhost:3000'"),
        ("null", "has no scheme"),
        ("https://shop.example/", "no path nor / behind"),
        ("https://shop.example/cart", "no path nor / behind"),
        ("https://Shop.example", "in small letters"),
        ("https://", "not as browsers write origins"),
        ("https://*.example", "not as browsers write origins"),
        ("https://shop.example:443", "leave out the usual port"),
        ("http://shop.example:80", "leave out the usual port"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin, said):
    """It would be allowed in vain."""
    message = refusal(CORS_ORIGINS=f"https://good.example,{origin}")
    assert "--cors-origins (RESNET_SERVE_CORS_ORIGINS)" in message
    assert repr(origin) in message
    assert said in message


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:3000", "http://[::1]:81", "https://a.b-c.example:8443", "app://x", "*"],
)
def test_an_origin_as_browsers_send_it_is_accepted(origin):
    assert loaded(CORS_ORIGINS=origin).cors_origins == (origin,)


@pytest.mark.parametrize("text", ["/images", "/a/b", "/a-b/c.d~e_f"])
def test_a_root_path_is_a_path(text):
    assert loaded({"root_path": text}).root_path == text


@pytest.mark.parametrize("text", ["", "/"])
def test_the_root_itself_is_no_root_path(text):
    assert loaded({"root_path": text}).root_path is None


@pytest.mark.parametrize("text", ["images", "/images/", "//images", "/a b", "/a?b", "/a#b", "/ä"])
def test_a_root_path_that_could_not_be_one_is_named(text):
    message = refusal({"root_path": text})
    assert message.startswith("--root-path (RESNET_SERVE_ROOT_PATH): must ")
    assert repr(text) in message


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", "x", "a whole number from 0 to 65535"),
        ("port", "1.5", "a whole number from 0 to 65535"),
        ("max_queue", "0", "a whole number of at least 1"),
        ("stuck_after_s", "nan", "a number above 0 and at most 86400"),
        ("max_delay_ms", "-1", "a number from 0 to 10000"),
        ("provider", "tpu", "auto, cpu, cuda or openvino"),
        ("precision", "bf16", "auto or exact"),
        ("cuda_graphs", "on", "auto or off"),
        ("builtin", "maybe", "true or false"),
        (
            "model_timeout_ms",
            "a=x",
            "comma-separated NAME=VALUE pairs, each value a whole number from 1 to 86400000",
        ),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed(name, value, allowed):
    flag = "--" + name.replace("_", "-")
    got = value.removeprefix("a=")
    expected = f"{flag} ({PREFIX}{name.upper()}): must be {allowed}, got {got!r}"
    assert refusal({name: value}) == expected


def test_help_has_groups_placeholders_and_ranges():
    """What may be given is seen before it is refused."""
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    for said in (
        "--provider {auto,cpu,cuda,openvino}",
        "--port N port to listen on; 0 picks a free one; a whole number from 0 to 65535 [8000]",
        "--drain-delay-s N",
        "--models PATH",
        "[0]",
    ):
        assert said in text
    titles = re.findall(r"^(\w[\w ]*):$", parser.format_help(), re.MULTILINE)
    assert titles == [
        "options", "address", "access", "models", "device", "batches and threads", "requests",
        "stopping and connections", "log",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["1", "true", "True", "yes", "on"])
def test_a_switch_is_on_in_many_words(text):
    assert loaded(BUILTIN=text).builtin is True


def test_a_path_is_a_path():
    assert loaded(MODELS="/srv/models").models == Path("/srv/models")


@pytest.mark.parametrize("name", FIELDS)
def test_settings_are_never_changed(name):
    with pytest.raises(ValidationError):
        setattr(Settings(), name, 1)


@given(value=st.integers(-(10**6), 10**6))
@bounded
def test_a_limit_is_taken_as_it_is_or_refused(value):
    """Never cut to the nearest that is allowed."""
    if 0 <= value <= 1024:
        assert loaded(MAX_BATCH=str(value)).max_batch == value
    else:
        assert repr(str(value)) in refusal(MAX_BATCH=str(value))


@given(
    flags=st.dictionaries(st.sampled_from(FIELDS), st.none() | st.booleans() | st.text()),
    environ=st.dictionaries(
        st.sampled_from([PREFIX + name.upper() for name in FIELDS]) | st.text(), st.text()
    ),
)
@bounded
def test_whatever_is_set_gives_settings_or_one_line(flags, environ):
    try:
        result, warnings = load_settings(flags, environ)
    except SettingsError as error:
        said = str(error)
    else:
        said = "settings"
        assert isinstance(result, Settings)
        assert not warnings
    assert len(said.splitlines()) == 1


def test_a_setting_by_its_old_name_is_refused_with_the_new_one():
    with pytest.raises(SettingsError, match=r"--layout-goal .* is now --optimize-for \(RESNET_SE"):
        load_settings({"layout_goal": "latency"}, {})
    with pytest.raises(SettingsError, match="is now --optimize-for"):
        load_settings({}, {"RESNET_SERVE_LAYOUT_GOAL": "latency"})
