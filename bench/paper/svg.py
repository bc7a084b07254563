"""Plots as SVG, drawn like the training report's curves (mal_train/report.py): points with whiskers, and heat maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa7700")
_WIDTH, _HEIGHT, _MARGIN = 760, 380, 56
_LABELS = 110  # below the plot, for labels that lean

Point = Sequence[float | None]  # place, value, low, high; what is not known is None


def dots(title: str, labels: Sequence[str], series: Mapping[str, Sequence[Point]], joined: bool = False) -> str:
    """Each series' values over the labels' places, with their intervals as whiskers; joined by a line if asked."""
    known = [value for points in series.values() for _, *values in points for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad * (low < 0), high + pad
    bottom = _HEIGHT - _LABELS

    def x(place: float) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * (place + 0.5) / max(1, len(labels))

    def y(value: float) -> float:
        return bottom - (bottom - _MARGIN) * (value - low) / (high - low)

    parts = _begin(title, _WIDTH, _HEIGHT)
    for value in _marks(low, high):
        parts.append(_line(_MARGIN, y(value), _WIDTH - _MARGIN, y(value), 'stroke="#ddd"'))
        parts.append(f'<text x="{_MARGIN - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>')
    parts.append(_line(_MARGIN, y(0), _WIDTH - _MARGIN, y(0), 'stroke="#777"'))
    for place, label in enumerate(labels):
        at = f"{x(place):.1f} {bottom + 16}"
        parts.append(f'<text transform="translate({at}) rotate(-30)" text-anchor="end">{escape(label)}</text>')
    for i, (name, points) in enumerate(series.items()):
        colour, shift = _COLOURS[i % len(_COLOURS)], 8.0 * (i - (len(series) - 1) / 2)
        parts.append(f'<text x="{_MARGIN + 170 * i}" y="{_MARGIN - 12}" fill="{colour}">{escape(name)}</text>')
        there = [
            (x(place) + shift, y(value), least, most)
            for place, value, least, most in points
            if place is not None and value is not None
        ]
        if joined:
            path = " ".join(f"{across:.1f},{up:.1f}" for across, up, *_ in there)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>')
        for across, up, least, most in there:
            if least is not None and most is not None:
                parts.append(_line(across, y(least), across, y(most), f'stroke="{colour}" stroke-width="1.5"'))
            parts.append(f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _marks(low: float, high: float) -> list[float]:
    """Round numbers between two, seven at most."""
    step = next((step for step in (1, 2, 5, 10, 20, 50) if (high - low) / step < 7), 100)
    return [float(value) for value in range(step * math.ceil(low / step), math.floor(high) + 1, step)]


def heat(title: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float | None]]) -> str:
    """Numbers in a table whose cells are the greener the more, the redder the less; what is not known stays white."""
    side, left, top, size = 22, 120, 150, 40
    width, height = left + size * len(columns) + 20, top + side * len(rows) + 20
    most = max([1.0, *(abs(value) for row in cells for value in row if value is not None)])
    parts = _begin(title, width, height)
    for i, name in enumerate(columns):
        at = f"{left + size * i + size / 2 + 4:.1f} {top - 8}"
        parts.append(f'<text transform="translate({at}) rotate(-60)">{escape(name)}</text>')
    for j, (name, row) in enumerate(zip(rows, cells, strict=True)):
        up = top + side * j
        parts.append(f'<text x="{left - 8}" y="{up + 15}" text-anchor="end">{escape(name)}</text>')
        for i, value in enumerate(row):
            if value is None:
                continue
            colour = "34,136,51" if value > 0 else "238,102,119"
            across = left + size * i
            parts.append(
                f'<rect x="{across}" y="{up}" width="{size - 1}" height="{side - 1}" '
                f'fill="rgba({colour},{abs(value) / most:.2f})"/>'
            )
            parts.append(f'<text x="{across + size / 2:.1f}" y="{up + 15}" text-anchor="middle">{value:+.0f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _begin(title: str, width: float, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="20" text-anchor="middle" font-size="14">{escape(title)}</text>',
    ]


def _line(left: float, top: float, right: float, bottom: float, style: str) -> str:
    return f'<line x1="{left:.1f}" y1="{top:.1f}" x2="{right:.1f}" y2="{bottom:.1f}" {style}/>'
