"""What a part found, and the report of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NEEDS_GPU = "not checked: it needs a GPU"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: `ok` is None where there is nothing to fall short of."""

    what: str
    value: str
    target: str = ""
    ok: bool | None = None


@dataclass
class Part:
    """The findings of one part; `details` are figures for the JSON report and notes for people."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None

    def note(self, what: str, value: str) -> None:
        """Report a figure."""
        self.findings.append(Finding(what, value))

    def check(self, what: str, value: str, target: str, *, ok: bool) -> None:
        """Report a figure and whether it reaches its target."""
        self.findings.append(Finding(what, value, target, ok))

    def at_most(self, what: str, value: float, most: float, unit: str = "") -> None:
        """Check a figure that should be small."""
        self.check(what, f"{value:.3g}{unit}", f"at most {most:g}{unit}", ok=value <= most)

    def at_least(self, what: str, value: float, least: float, unit: str = "") -> None:
        """Check a figure that should be large."""
        self.check(what, f"{value:.3g}{unit}", f"at least {least:g}{unit}", ok=value >= least)

    def skip(self, what: str) -> None:
        """Report what was left out for want of a GPU."""
        self.findings.append(Finding(what, NEEDS_GPU))

    @property
    def fell_short(self) -> bool:
        """Whether anything is not as it should be."""
        return self.error is not None or any(finding.ok is False for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return asdict(self) | {"fell_short": self.fell_short}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Part:
        """Read what `as_json` gave."""
        values = {key: value for key, value in found.items() if key != "fell_short"}
        findings = [Finding(**finding) for finding in values.pop("findings")]
        return cls(findings=findings, **values)


def render(machine: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """Return the report in Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        "# gpu-check",
        "",
        f"{machine['date']}: {machine['gpu'] or 'no GPU'}; {machine['cpu']}, "
        f"{machine['cores']} cores; Python {machine['python']}, {packages}.",
        "",
        f"Command: `{machine['command']}`",
    ]
    for part in parts:
        lines += ["", f"## {part.name} ({part.seconds:.0f} s)", ""]
        if part.findings:
            lines += ["| | found | target | |", "|---|---|---|---|"]
            lines += [
                f"| {finding.what} | {finding.value} | {finding.target} | {_verdict(finding)} |"
                for finding in part.findings
            ]
        if part.error is not None:
            lines += ["", f"**Failed:** {part.error}"]
        for note in part.notes:
            lines += ["", note]
    short = [part.name for part in parts if part.fell_short]
    verdict = f"Fell short: {', '.join(short)}." if short else "Nothing fell short."
    return "\n".join([*lines, "", verdict, ""])


def _verdict(finding: Finding) -> str:
    return "" if finding.ok is None else "ok" if finding.ok else "**short**"
