"""Draws a run: what each link carried, what became of each stream's packets, the handoffs close up.

The same figure is a PNG, or an SVG without a background of its own, whose ink is the colour of the text around it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from itertools import pairwise

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.transforms import ScaledTranslation

from labs.eventnames import LEFT, RIGHT, WIDTH, EventNames
from labs.flows import DOWN, UP, Record, Stream
from labs.recording import Ends, Recording
from labs.render import TOTAL
from labs.result import Report

_FLOWS = ("#3b8fe0", "#f0a030", "#35a874", "#b068d8", "#20b2bd", "#d88cb0", "#8c9a3e", "#9c7a5c")
_OTHER = "#9aa4b0"
_LOST, _GOOD = "#e5484d", "#2b9a66"
_SIDES = {DOWN: "#3b8fe0", UP: "#f0a030"}
_INK = {"light": "#1f2730", "svg": "#010203"}  # the latter becomes currentColor
_PAPER = "#ffffff"
_CLOSE = 0.25  # seconds shown before and after a handoff
_CLOSE_UPS = 4
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "mip6",
}


@dataclass(frozen=True)
class _Drawing:
    """A recording with seconds from the start of the story in place of nanoseconds."""

    recording: Recording
    ink: str

    def seconds(self, moment: int) -> float:
        return (moment - self.recording.whole.start) / 1e9

    @property
    def end(self) -> float:
        return self.seconds(self.recording.whole.end)


def png(report: Report, title: str) -> bytes:
    """The run as one picture: `title` above, the plots, and the checks as a table."""
    return _draw(report, _INK["light"], "png", title)


def svg(report: Report) -> str:
    """The plots alone."""
    text = _draw(report, _INK["svg"], "svg", None).decode()
    text = re.sub(r"<metadata>.*</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL).replace(
        _INK["svg"], "currentColor"
    )
    text = text.replace("'DejaVu Sans'", "system-ui")
    return re.sub(r'<svg width="[\d.]+pt" height="[\d.]+pt"', '<svg width="100%"', text, count=1)


def _draw(report: Report, ink: str, form: str, title: str | None) -> bytes:
    recording = report.recording
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), ink)
    with mpl.rc_context({**_STYLE, **colors}):
        if recording is None or not recording.phases:
            figure = Figure(figsize=(WIDTH, 1.2))
            figure.text(0.02, 0.4, f"{report.scenario}: nothing was played: {report.error}", color=_LOST)
            return _saved(figure, form, title is None)
        drawing = _Drawing(recording, ink)
        streams = [flow for flow in recording.flows if isinstance(flow, Stream)]
        moments = _handoffs(recording)
        watched = _watched(recording, moments)
        heights = [1.9] * len(recording.links) + [1.35] * len(streams)
        if moments and watched:
            heights.append(2.6)
        table = 0.0 if title is None else 0.21 * ((len(report.checks) + 1) // 2) + 0.35
        names = EventNames.of([(drawing.seconds(mark.time), mark.says) for mark in recording.marks], drawing.end)
        head = (0.35 if title is None else 0.95) + names.height / 72
        plots = sum(heights) + 0.62 * len(heights)
        height = head + plots + table + 0.25
        figure = Figure(figsize=(WIDTH, height))
        top = 1 - head / height
        grid = GridSpec(
            len(heights), 1, figure, LEFT, (table + 0.5) / height, RIGHT, top,
            hspace=0.62 * len(heights) / sum(heights), height_ratios=heights,
        )  # fmt: skip
        axes = [figure.add_subplot(grid[row]) for row in range(len(recording.links) + len(streams))]
        colors_of = {flow.name: _FLOWS[i % len(_FLOWS)] for i, flow in enumerate(recording.flows)}
        for axis, link in zip(axes, recording.links, strict=False):
            _throughput(axis, drawing, link, colors_of)
        _legend(axes[0], names.height)
        for axis, flow in zip(axes[len(recording.links) :], streams, strict=True):
            _stream(axis, drawing, flow)
        for axis in axes:
            _timeline(axis, drawing)
        names.draw(axes[0], ink)
        axes[-1].set_xlabel("seconds")
        if moments and watched:
            _close_ups(figure, grid[len(heights) - 1], drawing, watched, moments)
        if title is not None:
            _page(figure, report, title, height, table)
        return _saved(figure, form, title is None)


def _saved(figure: Figure, form: str, transparent: bool) -> bytes:
    out = io.BytesIO()
    metadata: dict[str, str | None] = {"Date": None} if form == "svg" else {}
    paper = "none" if transparent else _PAPER
    figure.savefig(out, format=form, dpi=130, transparent=transparent, facecolor=paper, metadata=metadata)
    return out.getvalue()


def _handoffs(recording: Recording) -> list[tuple[str, int]]:
    """What happened and when: the last action of every phase that has one; the first ones of those of equal name."""
    found: dict[str, int] = {}
    for played in recording.phases:
        if played.moments:
            moment = played.moments[-1]
            found.setdefault(next(mark.says for mark in recording.marks if mark.time == moment), moment)
    return list(found.items())[:_CLOSE_UPS]


def _watched(recording: Recording, moments: list[tuple[str, int]]) -> Stream | None:
    """The stream that is shown close up: the one that felt the handoffs most, else the one of most packets."""

    def lost(flow: Stream) -> int:
        near = [range(moment - int(_CLOSE * 1e9), moment + int(2 * _CLOSE * 1e9)) for _, moment in moments]
        ends = [recording.streams[flow.name, direction] for direction in flow.directions]
        arrived = [{record.number for record in end.received} for end in ends]
        return sum(
            record.number not in got and any(record.sent in span for span in near)
            for end, got in zip(ends, arrived, strict=True)
            for record in end.sent
        )

    streams = [flow for flow in recording.flows if isinstance(flow, Stream)]
    return max(streams, key=lambda flow: (lost(flow), flow.rate), default=None)


def _throughput(axis: Axes, drawing: _Drawing, link: str, colors: dict[str, str]) -> None:
    """Down above the line, up below it, a colour for each flow."""
    recording = drawing.recording
    times = [drawing.seconds(sample.time) for sample in recording.samples[1:]]
    for sign, direction in ((1, DOWN), (-1, UP)):
        layers, names = [], []
        total = _rates(recording, link, TOTAL, direction)
        rest = total
        for name in colors:
            rates = _rates(recording, link, name, direction)
            rest = [max(0.0, whole - part) for whole, part in zip(rest, rates, strict=True)]
            layers.append([sign * rate for rate in rates])
            names.append(name)
        layers.append([sign * rate for rate in rest])
        palette = [*colors.values(), _OTHER]
        labels = [*names, "signalling and other"] if direction == DOWN else []
        axis.stackplot(times, layers, colors=palette, labels=labels, alpha=0.85, linewidth=0, step="pre")
    down, up = recording.links[link]
    for rate, sign in ((down, 1), (up, -1)):
        if rate is not None and (sign > 0 or _peak(recording, link, UP) > 0.5 * rate / 1e6):
            axis.axhline(sign * rate / 1e6, color=drawing.ink, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.55)
    axis.axhline(0, color=drawing.ink, linewidth=0.6)
    peak_down, peak_up = _peak(recording, link, DOWN), _peak(recording, link, UP)
    top = max(peak_down * 1.12, (down or 0) / 1e6 * 1.12 if peak_down > 0.2 * (down or 1e12) / 1e6 else 0, 0.1)
    axis.set_ylim(-max(peak_up * 1.25, top * 0.06), top)
    axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    rate_text = "" if down is None else f"  {_rate(down)}" if down == up else f"  {_rate(down)} down, {_rate(up)} up"
    axis.set_title(link + rate_text)
    axis.set_ylabel("Mbit/s")
    axis.text(0.004, 0.97, "down", transform=axis.transAxes, va="top", fontsize=7.5, alpha=0.6)
    if peak_up > 0.15 * top:  # else there is no room between the axis and zero
        axis.text(0.004, 0.03, "up", transform=axis.transAxes, va="bottom", fontsize=7.5, alpha=0.6)


def _legend(axis: Axes, above: float) -> None:
    """Of the flows' colours, once, so many points above the uppermost plot."""
    handles, labels = axis.get_legend_handles_labels()
    place = axis.transAxes + ScaledTranslation(0, above / 72, axis.figure.dpi_scale_trans)
    axis.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), bbox_transform=place, handlelength=1,
                ncols=len(labels), borderaxespad=0.2, columnspacing=1.4)  # fmt: skip


def _rates(recording: Recording, link: str, flow: str, direction: str) -> list[float]:
    """Mbit/s between each two samples."""
    return [
        (after.octets(link, flow, direction) - before.octets(link, flow, direction)) * 8e3 / (after.time - before.time)
        for before, after in pairwise(recording.samples)
    ]


def _peak(recording: Recording, link: str, direction: str) -> float:
    return max(_rates(recording, link, TOTAL, direction), default=0.0)


def _rate(rate: int | None) -> str:
    return "any rate" if rate is None else f"{rate / 1e6:g} Mbit/s"


def _stream(axis: Axes, drawing: _Drawing, flow: Stream) -> None:
    """Each packet's delay by the time it was sent; what was lost is a line across."""
    highest = 1.0
    for direction in flow.directions:
        ends = drawing.recording.streams[flow.name, direction]
        delays = [(record.arrived - record.sent) / 1e6 for record in ends.received]
        times = [drawing.seconds(record.sent) for record in ends.received]
        axis.plot(times, delays, ".", color=_SIDES[direction], markersize=2.4, rasterized=True, label=direction,
                  alpha=0.8, markeredgewidth=0)  # fmt: skip
        highest = max(highest, *sorted(delays)[: max(1, int(len(delays) * 0.999))][-1:])
        lost = _lost(drawing, ends)
        axis.eventplot([drawing.seconds(record.sent) for record in lost], lineoffsets=0.5, linelengths=1.0,
                       colors=_LOST, linewidths=0.5, alpha=0.45)  # fmt: skip
        axis.collections[-1].set_transform(axis.get_xaxis_transform())
    reports = [drawing.recording.report(flow.name, direction, drawing.recording.whole) for direction in flow.directions]
    fates = " · ".join(
        f"{sum(getattr(r, name) for r in reports):,} {says}"
        for name, says in (
            ("sent", "sent"),
            ("lost", "lost"),
            ("duplicated", "repeated"),
            ("reordered", "out of order"),
        )
    )
    axis.set_title(flow.name)
    axis.text(1.0, 1.03, fates, transform=axis.transAxes, ha="right", va="bottom", fontsize=8.5, alpha=0.85)
    axis.set_ylim(0, highest * 1.15)
    axis.set_ylabel("delay, ms")
    handles, labels = axis.get_legend_handles_labels()
    legend = axis.legend(handles, labels, loc="upper left", ncols=2, handletextpad=0.1, columnspacing=1.0,
                         borderaxespad=0.1, markerscale=3)  # fmt: skip
    legend.set_zorder(5)


def _lost(drawing: _Drawing, ends: Ends) -> list[Record]:
    """Packets sent within the story that never arrived."""
    arrived = {record.number for record in ends.received}
    whole = drawing.recording.whole
    return [record for record in ends.sent if record.sent in whole and record.number not in arrived]


def _timeline(axis: Axes, drawing: _Drawing) -> None:
    axis.set_xlim(0, drawing.end)
    axis.grid(True, axis="y", color=drawing.ink, alpha=0.12, linewidth=0.5)
    axis.set_axisbelow(True)
    for mark in drawing.recording.marks:
        axis.axvline(drawing.seconds(mark.time), color=drawing.ink, linewidth=0.9, alpha=0.6)


def _close_ups(
    figure: Figure, cell: SubplotSpec, drawing: _Drawing, flow: Stream, moments: list[tuple[str, int]]
) -> None:
    """The sequence numbers of one stream just around each event: sent, received, lost."""
    grid = GridSpecFromSubplotSpec(len(flow.directions), len(moments), subplot_spec=cell, hspace=0.12, wspace=0.13)
    for row, direction in enumerate(flow.directions):
        ends = drawing.recording.streams[flow.name, direction]
        lost = {record.number for record in _lost(drawing, ends)}
        for column, (says, moment) in enumerate(moments):
            axis = figure.add_subplot(grid[row, column])

            def near(at: int, moment: int = moment) -> float | None:
                offset = (at - moment) / 1e6
                return offset if -1000 * _CLOSE <= offset <= 1000 * 2 * _CLOSE else None

            sent = [(x, record.number) for record in ends.sent if (x := near(record.sent)) is not None]
            if not sent:
                continue
            first = sent[0][1]
            axis.plot([x for x, _ in sent], [n - first for _, n in sent], "-", color=drawing.ink, alpha=0.3,
                      linewidth=0.8, label="sent")  # fmt: skip
            got = [(x, record.number - first) for record in ends.received if (x := near(record.arrived)) is not None]
            got = [(x, n) for x, n in got if n >= 0]
            axis.plot([x for x, _ in got], [n for _, n in got], ".", color=_SIDES[direction], markersize=3,
                      markeredgewidth=0, label=f"received, {direction}")  # fmt: skip
            gone = [(x, n - first) for x, n in sent if n in lost]
            axis.plot([x for x, _ in gone], [n for _, n in gone], "x", color=_LOST, markersize=3.5,
                      markeredgewidth=0.9, label="lost")  # fmt: skip
            axis.axvline(0, color=drawing.ink, linewidth=0.9, alpha=0.6)
            axis.set_xlim(-1000 * _CLOSE, 1000 * 2 * _CLOSE)
            axis.grid(True, color=drawing.ink, alpha=0.1, linewidth=0.5)
            if row == 0:
                axis.set_title(says, fontsize=8.5)
            if row < len(flow.directions) - 1:
                axis.tick_params(labelbottom=False)
            else:
                axis.set_xlabel("ms from the event")
            if column == 0:
                axis.set_ylabel(f"{flow.name} {direction}\nsequence number")
            if column == len(moments) - 1 and row == 0:
                axis.legend(loc="lower right", handletextpad=0.3)


def _page(figure: Figure, report: Report, title: str, height: float, table: float) -> None:
    """Head and table of the PNG."""
    verdict = "passed" if report.passed else "FAILED"
    figure.text(0.02, 1 - 0.32 / height, report.scenario, fontsize=17, fontweight="bold")
    figure.text(0.02, 1 - 0.56 / height, title, fontsize=10, alpha=0.8)
    done = sum(check.passed for check in report.checks)
    figure.text(0.985, 1 - 0.32 / height, f"{verdict}: {done} of {len(report.checks)} checks", fontsize=12, ha="right",
                fontweight="bold", color=_GOOD if report.passed else _LOST)  # fmt: skip
    figure.text(0.985, 1 - 0.56 / height, f"data plane {report.dataplane}", fontsize=9, ha="right", alpha=0.7)
    half = (len(report.checks) + 1) // 2
    for number, check in enumerate(report.checks):
        column, row = divmod(number, half)
        x, y = 0.02 + 0.5 * column, (table - 0.12 - 0.21 * row) / height
        color = _GOOD if check.passed else _LOST
        figure.text(x, y, "✓" if check.passed else "✗", color=color, fontsize=9, fontweight="bold")
        figure.text(x + 0.016, y, check.name, fontsize=8)
        figure.text(x + 0.335, y, f"{check.value:,.10g}", fontsize=8, ha="right", fontweight="bold")
        figure.text(x + 0.34, y, check.unit, fontsize=8, alpha=0.8)
        figure.text(x + 0.44, y, check.says, fontsize=8, alpha=0.7)
