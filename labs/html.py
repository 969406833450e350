"""The report of a run as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from labs.checks import Check
from labs.result import Report
from labs.scenario import Scenario

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2730; --soft: #5c6773; --paper: #fcfcfd; --card: #ffffff; --line: #e3e7eb;
        --good: #2b9a66; --bad: #e5484d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #9aa4b0; --paper: #14181c; --card: #1b2025; --line: #2d343b;
          --good: #4cc38a; --bad: #ff6369; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
h1 { margin: 0; font-size: 2rem; letter-spacing: -.01em; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.about { color: var(--soft); flex-basis: 100%; }
.verdict { margin-left: auto; font-weight: 650; font-size: 1.1rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.25rem;
        overflow-x: auto; }
ol { margin: 0; padding-left: 1.3rem; } ol b { font-weight: 600; } ol span { color: var(--soft); }
svg { display: block; width: 100%; min-width: 760px; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td { padding: .28rem .6rem .28rem 0; border-top: 1px solid var(--line); }
tr:first-child td { border-top: 0; }
th { text-align: left; padding: 1.1rem 0 .3rem; font-size: .95rem; }
tbody:first-child th { padding-top: 0; }
.mark { width: 1.6rem; font-weight: 700; } .value { text-align: right; font-weight: 600; white-space: nowrap; }
.unit, .limit { color: var(--soft); white-space: nowrap; }
pre { margin: 0; font: 13px/1.35 ui-monospace, monospace; }
"""


def page(scenario: Scenario, report: Report, picture: str) -> str:
    """The whole document; `picture` is the SVG of `labs.plots`, empty when nothing was recorded."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(scenario.name)}</title><style>{_STYLE}</style></head><body><main>",
        *_head(scenario, report),
        f'<h2>The run</h2><div class="card">{picture}</div>' if picture else "",
        f'<h2>Checks</h2><div class="card"><table>{"".join(_table(scenario, report))}</table></div>',
        f'<h2>The network</h2><div class="card"><pre>{escape(scenario.story.strip())}</pre></div>',
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _head(scenario: Scenario, report: Report) -> Iterator[str]:
    passed = sum(check.passed for check in report.checks)
    said = f"{passed} of {len(report.checks)} checks" if report.error is None else report.error
    state = ("good", "passed") if report.passed else ("bad", "failed")
    yield f"<header><h1>{escape(scenario.name)}</h1>"
    yield f'<span class="verdict {state[0]}">{state[1]}: {escape(said)}</span>'
    yield f'<span class="about">{escape(scenario.title)} · data plane {escape(report.dataplane)}</span></header>'
    yield '<h2>The story</h2><div class="card"><ol>'
    for phase in scenario.phases:
        yield f"<li><b>{escape(phase.name)}</b>: <span>{escape(phase.says)}</span></li>"
    yield "</ol></div>"


def _table(scenario: Scenario, report: Report) -> Iterator[str]:
    """A group of rows for each phase, then what holds for the whole."""
    left = list(report.checks)
    for phase in scenario.phases:
        start = f"{phase.name}: "
        group = [check for check in left if check.name.startswith(start)]
        left = [check for check in left if check not in group]
        yield from _group(phase.name, group, start)
    yield from _group("the whole story", left, "")


def _group(name: str, checks: list[Check], start: str) -> Iterator[str]:
    if checks:
        rows = "".join(_row(check, check.name.removeprefix(start)) for check in checks)
        yield f'<tbody><tr><th colspan="5">{escape(name)}</th></tr>{rows}</tbody>'


def _row(check: Check, name: str) -> str:
    state, mark = ("good", "✓") if check.passed else ("bad", "✗")
    return (
        f'<tr><td class="mark {state}">{mark}</td><td>{escape(name)}</td><td class="value">{check.value:,.10g}</td>'
        f'<td class="unit">{escape(check.unit)}</td><td class="limit">{check.says}</td></tr>'
    )
