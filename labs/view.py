"""What a person sees of a running scenario: a few lines for each phase, and a live picture of the rates per link.

On a terminal the picture is redrawn in place; elsewhere only its last state in each phase is printed.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from labs.result import Report

_BAR = 24  # characters
_BOLD, _DIM, _GREEN, _RED, _CYAN, _PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[36m", "\033[0m"


@dataclass(frozen=True, slots=True)
class LinkRate:
    """One access link just now: bit/s towards and from the mobile network, and the flows seen on it."""

    link: str
    capacity: float
    down: float
    up: float
    flows: tuple[str, ...]
    carrier: bool


class View:
    """Writes to `stream`. `live`: it is a terminal that understands ANSI."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._color = self.live and not os.environ.get("NO_COLOR")
        self._drawn = 0
        self._rates: Sequence[LinkRate] = ()

    def title(self, text: str) -> None:
        self._print(self._paint(_BOLD, self._fold(text, 0)))

    def phase(self, name: str, says: str) -> None:
        self._keep()
        self._print("")
        start = f"▸ {name}"
        text = self._fold(f"{start}  {says}", 2)
        self._print(self._paint(_BOLD + _CYAN, start) + text[len(start) :])

    def note(self, text: str) -> None:
        """A line under the present phase, above the picture."""
        self._erase()
        self._print(self._fold(f"  {text}", 4))
        if self.live:
            self._draw()

    def rates(self, rates: Sequence[LinkRate]) -> None:
        """The picture of this moment."""
        self._rates = rates
        if self.live:
            self._erase()
            self._draw()

    def report(self, report: Report) -> None:
        """The table of checks and the verdict."""
        self._keep()
        self._print("")
        width = max((len(check.name) for check in report.checks), default=0)
        for check in report.checks:
            mark = self._paint(_GREEN, "✓") if check.passed else self._paint(_RED, "✗")
            value = f"{round(check.value, 3):,.10g}"
            unit = "" if check.unit == "" else f" {check.unit}"
            self._print(f"  {mark} {check.name:<{width}}  {value:>10}{unit} {self._paint(_DIM, f'{check.says}')}")
        self._print("")
        failed = sum(not check.passed for check in report.checks)
        if report.error is not None:
            verdict = f"FAILED: {report.error}"
        elif not report.passed:
            verdict = f"FAILED: {failed} of {len(report.checks)} checks"
        else:
            verdict = f"PASSED: all {len(report.checks)} checks"
        about = f" (scenario {report.scenario}, data plane {report.dataplane})"
        self._print(self._paint(_BOLD + (_GREEN if report.passed else _RED), verdict) + about)

    def summary(self, reports: Sequence[Report]) -> None:
        """One line for each run."""
        width = max(len(report.scenario) for report in reports)
        for report in reports:
            passed = sum(check.passed for check in report.checks)
            mark = self._paint(_GREEN, "✓") if report.passed else self._paint(_RED, "✗")
            said = f"{passed:>3} of {len(report.checks):>3} checks" if report.error is None else report.error
            failed = [f"{c.name}: {c.value:,.10g} {c.unit} against {c.says}" for c in report.checks if not c.passed]
            self._print(f"  {mark} {report.scenario:<{width}}  {said}  {'; '.join(failed)}".rstrip())

    def _fold(self, text: str, indent: int) -> str:
        """On a terminal, between words where a line is longer than the window."""
        if not self.live:
            return text
        width = max(shutil.get_terminal_size().columns, 20)
        return textwrap.fill(text, width, subsequent_indent=" " * indent, drop_whitespace=True, tabsize=1)

    def _keep(self) -> None:
        """The picture as it is becomes part of the text."""
        if not self.live:
            self._draw()
        self._drawn = 0
        self._rates = ()

    def _draw(self) -> None:
        # Cut at the right edge: a line that wraps would take two rows, and _erase counts one.
        before, behind = ("\033[?7l", "\033[?7h") if self.live else ("", "")
        for rate in self._rates:
            self._print(before + self._link(rate) + behind)
        self._drawn = len(self._rates)

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\033[{self._drawn}A\033[J")
            self._drawn = 0

    def _link(self, rate: LinkRate) -> str:
        if not rate.carrier:
            return f"  {rate.link:<10}{self._paint(_RED, '╌' * _BAR)} no carrier"
        filled = round(min(rate.down / rate.capacity, 1.0) * _BAR)
        if rate.down + rate.up > 0:
            filled = max(filled, 1)
        bar = self._paint(_GREEN, "█" * filled) + self._paint(_DIM, "░" * (_BAR - filled))
        figures = f"↓{rate.down / 1e6:6.2f}  ↑{rate.up / 1e6:5.2f} Mbit/s"
        return f"  {rate.link:<10}{bar} {figures}  {', '.join(rate.flows)}"

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_PLAIN}" if self._color else text

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
