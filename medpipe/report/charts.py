"""Small charts as SVG inside the page: bars, lines over partitions, histograms.

They stand in cells of tables that say the same in figures, so a screen reader needs none of them; colours come from
the page's style, so they follow its theme and print. Coordinates are attributes: the page's policy allows no inline
style.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

BAR_WIDTH, BAR_HEIGHT = 100, 10
LINE_WIDTH, LINE_HEIGHT = 160, 36
COLUMN, COLUMN_HEIGHT = 12, 36


def bar(value: float, most: float, kind: str = "") -> Markup:
    """Returns a bar of ``value`` of ``most``; what is not nothing is at least visible."""
    width = 0.0 if value <= 0 or most <= 0 else max(1.0, BAR_WIDTH * min(1.0, value / most))
    return Markup(
        '<svg class="bar {}" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="{}" height="{}"/><rect class="fill" width="{:.1f}" height="{}"/></svg>'
    ).format(kind, BAR_WIDTH, BAR_HEIGHT, BAR_WIDTH, BAR_HEIGHT, width, BAR_HEIGHT)


def line(values: Sequence[float], names: Sequence[str]) -> Markup:
    """Returns a line over partitions from zero upwards, its last point marked; each point has its name as a title."""
    top = max([*values, 1e-9])
    step = (LINE_WIDTH - 12) / max(1, len(values) - 1)
    points = [
        (LINE_WIDTH - 6 - step * (len(values) - 1 - index), LINE_HEIGHT - 4 - (LINE_HEIGHT - 10) * value / top)
        for index, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = Markup("").join(
        Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {:.2f}</title></circle>').format(
            "last" if index == len(points) - 1 else "point", x, y, names[index], values[index]
        )
        for index, (x, y) in enumerate(points)
    )
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" aria-hidden="true"><line x1="0" y1="{}" x2="{}" y2="{}"/>'
        '<polyline points="{}"/>{}</svg>'
    ).format(LINE_WIDTH, LINE_HEIGHT, LINE_HEIGHT - 3, LINE_WIDTH, LINE_HEIGHT - 3, path, dots)


def histogram(counts: Sequence[int]) -> Markup:
    """Returns a histogram of counts, each column with its range and count as a title."""
    most = max([*counts, 1])
    column = Markup('<rect x="{}" y="{:.1f}" width="{}" height="{:.1f}"><title>{:.1f} to {:.1f}: {:,}</title></rect>')
    columns = Markup("").join(
        column.format(
            index * COLUMN + 1, COLUMN_HEIGHT - height, COLUMN - 2, height,
            index / len(counts), (index + 1) / len(counts), count,
        )
        for index, count in enumerate(counts)
        for height in [max(1.0 if count else 0.0, (COLUMN_HEIGHT - 2) * count / most)]
    )  # fmt: skip
    width = COLUMN * len(counts)
    return Markup(
        '<svg class="histogram" viewBox="0 0 {} {}" aria-hidden="true">{}<line x1="0" y1="{}" x2="{}" y2="{}"/></svg>'
    ).format(width, COLUMN_HEIGHT + 1, columns, COLUMN_HEIGHT + 0.5, width, COLUMN_HEIGHT + 0.5)
