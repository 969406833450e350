"""What is written above the uppermost plot of a run: what happened, at its time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

WIDTH = 12.0  # of the figure, in inches
LEFT, RIGHT = 0.065, 0.985  # the plots' margins, as shares of it
_POINTS = (RIGHT - LEFT) * WIDTH * 72  # of a plot from left to right
_TITLE, _LINE = 17, 11  # points: the row of a plot's title, and a line of names above it
_MOST_ROWS = 3  # of names


@dataclass(frozen=True)
class EventNames:
    """Each event by its name, neighbours stepped so that no event's line crosses a name; or by its number with a key
    above, where they are too many for that. `moments` have seconds of the story, which lasts until `end`."""

    moments: tuple[tuple[float, str], ...]
    end: float
    rows: tuple[int, ...]
    key: tuple[str, ...]

    @classmethod
    def of(cls, moments: Sequence[tuple[float, str]], end: float) -> EventNames:
        """The way that there is room for."""
        moments = sorted(moments)
        rows: list[int] = []  # of the events from here on
        for at, (start, says) in reversed(list(enumerate(moments))):
            stop = start + _wide(says) * end / _POINTS
            later = zip(rows, moments[at + 1 :], strict=True)
            rows.insert(0, 1 + max((row for row, (other, _) in later if other < stop), default=-1))
        crowded = max(rows, default=0) >= _MOST_ROWS
        return cls(tuple(moments), end, tuple(rows), _key([says for _, says in moments]) if crowded else ())

    @property
    def height(self) -> float:
        """Of all of it above the plot, in points."""
        return _TITLE + _LINE * (1 + (len(self.key) or max(self.rows, default=-1)))

    def draw(self, axis: Axes, ink: str) -> None:
        """Names or numbers, each with its line up from the plot, and the key."""
        if not self.key:
            for (start, says), row in zip(self.moments, self.rows, strict=True):
                self._write(axis, ink, start, says, row)
            return
        for number, line in enumerate(reversed(self.key), 1):
            axis.annotate(line, (0, 1), xycoords="axes fraction", xytext=(0, _TITLE + _LINE * number), fontsize=8,
                          textcoords="offset points", va="bottom", color=ink)  # fmt: skip
        near = _wide("00, ") * self.end / _POINTS
        together: list[tuple[float, list[str]]] = []
        for number, (start, _) in enumerate(self.moments, 1):
            if together and start - together[-1][0] < near:
                together[-1][1].append(str(number))
            else:
                together.append((start, [str(number)]))
        for start, numbers in together:
            self._write(axis, ink, start, ", ".join(numbers), 0)

    def _write(self, axis: Axes, ink: str, start: float, says: str, row: int) -> None:
        leftwards = start + _wide(says) * self.end / _POINTS > self.end
        line = {"arrowstyle": "-", "linewidth": 0.9, "alpha": 0.6, "color": ink, "shrinkA": 0, "shrinkB": 0}
        axis.annotate(says, (start, 1), xycoords=("data", "axes fraction"), xytext=(0, _TITLE + _LINE * row),
                      textcoords="offset points", fontsize=8, ha="right" if leftwards else "left", va="bottom",
                      color=ink, arrowprops={**line, "relpos": (int(leftwards), 0)})  # fmt: skip


def _key(names: Sequence[str]) -> tuple[str, ...]:
    """The numbers of each name, in lines as wide as the plot."""
    numbers: dict[str, list[str]] = {}
    for number, says in enumerate(names, 1):
        numbers.setdefault(says, []).append(str(number))
    lines: list[str] = []
    for says, found in numbers.items():
        entry = f"{', '.join(found)} {says}"
        if lines and _wide(longer := f"{lines[-1]}   ·   {entry}") < _POINTS:
            lines[-1] = longer
        else:
            lines.append(entry)
    return tuple(lines)


def _wide(says: str) -> float:
    """About so many points in the size of the events."""
    return 4.7 * len(says) + 6
