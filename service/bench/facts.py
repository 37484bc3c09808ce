"""What a report was measured with, as rows of name and text for every report format."""

from __future__ import annotations

from typing import Any

INTERRUPTED = "Interrupted: this is what was measured until then."


def report_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return date, command, versions, machine and images, and what is known about the server."""
    machine, images = report["machine"], report["images"]
    rows = [
        ("date", report["date"]),
        ("command", machine["command"]),
        ("versions", _versions(machine)),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, "
                    f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}"),
        ("images", f"{images['count']} distinct, median {images['bytes']['p50'] / 1000:.1f} kB"),
    ]  # fmt: skip
    return rows + (_server(report["server"], report) if "server" in report else [])


def _server(server: dict[str, Any], report: dict[str, Any]) -> list[tuple[str, str]]:
    models = server.get("models")
    named = ", ".join(map(_model, models if isinstance(models, list) else ()))
    rows = [("server", f"{server['url']} {named}".rstrip())]
    if command := server.get("command"):
        rows.append(("started by", command))
    if server["settings"] is not None:
        rows.append(("settings", _settings(server["settings"])))
    if "tolerance" in report:
        tolerance = f"{report['tolerance']:g}"
        rows.append(("answers", f"right within {tolerance} of the reference's probabilities"))
    return rows


def _versions(machine: dict[str, Any]) -> str:
    packages = "".join(f", {name} {version}" for name, version in machine["packages"].items())
    return f"resnet-serve {machine['resnet_serve']}, Python {machine['python']}{packages}"


def _settings(told: dict[str, Any]) -> str:
    parallelism = told["parallelism"]
    models = [
        f"{model['name']} version {model['version']}: {model['provider']}, max_batch "
        f"{model['max_batch']}, max_queue {model['queue']['limit']}"
        for model in told["models"]
    ]
    return "; ".join([
        f"resnet-serve {told['version']}",
        f"{parallelism['runners']} runners x {parallelism['intra_op_threads']} intra-op threads "
        f"({parallelism['source']}, for {parallelism['goal']})",
        *models,
    ])  # fmt: skip


def _model(model: object) -> str:
    """Return a model's name and description; other kinds of servers may list bare names."""
    if not isinstance(model, dict):
        return str(model)
    version = f" version {model['version']}" if "version" in model else ""
    known = [str(model[key]) for key in ("architecture", "precision", "provider") if key in model]
    if (rounded := model.get("computed_in")) not in (None, model.get("precision")):
        known.append(f"computed in {rounded}")
    details = f" ({', '.join(known)})" if known else ""
    return f"{model.get('name')}{version}{details}"
