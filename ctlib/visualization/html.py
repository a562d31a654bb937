"""Figures and tables as they stand in a report: HTML that needs no network."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure
from PIL import Image

from ctlib.core import title_of, word
from ctlib.visualization.style import PX_PER_INCH, RESULT_TYPE, style

MAX_SVG_BYTES = 110_000
"""A larger SVG is shown as PNG, if that is smaller; base64 adds a third, and a report holds 2 MB."""

THREE_DECIMALS = ("auroc", "auprc", "brier", "effect", "difference", "low", "high", "loss")
"""Columns whose name holds one of these words, and which are signed: differences and their ends."""
SIGNED = ("effect", "difference")
SHARES = ("fraction", "prevalence", "share", "accuracy")
"""Columns whose name holds one of these words are shares of 1, shown in percent."""
NOTHING = "–"
LEFT = ' style="text-align:left"'
"""Of cells of text: JupyterLab has all cells of tables on the right."""
LONG = 30
"""Characters from which on the text of a cell is given some width."""


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes each time; coordinates to a hundredth of a point."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    grey = re.sub(rb"(?<=data:image/png;base64,)[^\"]+", _as_grey, buffer.getvalue())
    plain = re.sub(rb"<!--.*?-->\s*|\n\s*(?=<)|<metadata>.*?</metadata>", b"", grey, flags=re.DOTALL)
    return _classed(_placed(_named_briefly(re.sub(rb' (?:d|x|y)="[^"]*"|translate\([^)]*\)', _short, plain))))


def _short(found: re.Match[bytes]) -> bytes:
    """Coordinates to a hundredth, a blank between them."""
    return re.sub(rb"\s+", b" ", re.sub(rb"(\.\d\d)\d+", rb"\1", found[0]))


def _named_briefly(plain: bytes) -> bytes:
    """Names of elements that something refers to, in short, and no others."""
    used = list(dict.fromkeys(re.findall(rb'(?:href="|url\()#([^")]+)', plain)))
    short = {name: f"a{number:x}".encode() for number, name in enumerate(used)}
    plain = re.sub(
        rb' id="([^"]+)"', lambda found: b' id="%b"' % short[found[1]] if found[1] in short else b"", plain
    )
    return re.sub(rb'((?:href="|url\()#)([^")]+)', lambda found: found[1] + short[found[2]], plain)


def _placed(plain: bytes) -> bytes:
    """The place of a letter as a whole number, where matplotlib gives each a transform.

    A third of a chart is the letters of its text; they are drawn at a tenth of their size or less.
    """
    return re.sub(
        rb'(<use xlink:href="#\w+") transform="translate\(([\d.]+) 0\)"/>',
        lambda found: b'%b x="%d"/>' % (found[1], round(float(found[2]))),
        plain,
    )


def _classed(plain: bytes) -> bytes:
    """Each way to draw once, as a class, where matplotlib repeats it at each element."""
    ways = list(dict.fromkeys(re.findall(rb' style="([^"]*)"', plain)))
    names = {way: b"s%x" % number for number, way in enumerate(ways)}
    rules = b"".join(b".%b{%b}" % (names[way], way.replace(b": ", b":").replace(b"; ", b";")) for way in ways)
    plain = re.sub(rb' style="([^"]*)"', lambda found: b' class="%b"' % names[found[1]], plain)
    return plain.replace(b"</style>", rules + b"</style>", 1)


def _as_grey(found: re.Match[bytes]) -> bytes:
    """A grey picture inside an SVG in one byte a pixel: matplotlib writes four."""
    with Image.open(io.BytesIO(base64.b64decode(found[0]))) as picture:
        red, green, blue, opaque = picture.convert("RGBA").split()
    if opaque.getextrema() != (255, 255) or not red.tobytes() == green.tobytes() == blue.tobytes():
        return found[0]
    buffer = io.BytesIO()
    red.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue())


def png(figure: Figure) -> bytes:
    """The figure as PNG with two pixels a CSS pixel, the same bytes each time."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=2 * PX_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def address(picture: bytes, form: str = "webp") -> str:
    """A picture as a page holds it: a `data:` address."""
    return f"data:image/{form};base64,{base64.b64encode(picture).decode('ascii')}"


def figure_html(figure: Figure, alt: str, caption: str, key: str = "") -> str:
    """An HTML `<figure>` with the picture inside it.

    Args:
        figure: what a function of this package returns.
        alt: what is seen, for those who cannot see it.
        caption: what it shows, with the number of patients.
        key: of the question that it answers, by which the index finds it; "" for none.

    Raises:
        ValueError: no alternative text.
    """
    if not alt.strip():
        raise ValueError("show: alt is empty; say in a sentence what the figure shows.")
    data, form = svg(figure), "svg+xml"
    if len(data) > MAX_SVG_BYTES:
        raster = png(figure)
        if len(raster) < len(data):
            data, form = raster, "png"
    source = address(data, form)
    kind = "ct-figure" if any(axes.images for axes in figure.axes) else "ct-figure ct-chart"
    width = round(figure.get_figwidth() * PX_PER_INCH)
    named = f' id="figure-{key}"' if key else ""
    return (
        f'<figure class="{kind}"{named}><img src="{source}" alt="{html.escape(alt)}" width="{width}" '
        f'style="max-width:100%;height:auto;background:#fff"/>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def show(figure: Figure, alt: str, caption: str, key: str = "") -> None:
    """Display a figure with its alternative text and caption; see `figure_html`."""
    display(HTML(figure_html(figure, alt, caption, key)))


def say(text: str) -> None:
    """Display sentences as prose, a paragraph a line; where nothing shows HTML they are printed."""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line.strip())
    prose = f'<div class="ct-answer" style="max-width:40em">{lines}</div>'
    display({"text/plain": text, "text/html": prose}, raw=True)


def table_html(
    frame: pd.DataFrame, caption: str, formats: Mapping[str, str] | None = None, folded: bool = False
) -> str:
    """An HTML table; numbers aligned and rounded to what matters.

    Args:
        frame: rows to show; its index is left out.
        caption: what it shows.
        formats: format of a column ("{:.2f}") where the usual one does not do.
        folded: whether it is closed until a reader opens it, and left out on paper.
    """
    if frame.empty:
        return f'<p class="ct-table"><strong>{html.escape(caption)}</strong>: none.</p>'
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame]
    kinds = [' class="num"' if number else LEFT for number in numeric]
    signed = any(word in str(name) for name in frame for word in SIGNED)
    formatters = [(formats or {}).get(str(name)) or usual_format(frame[name], signed) for name in frame]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(title_of(name))}</th>'
        for name, kind in zip(frame, kinds, strict=True)
    )
    rows = []
    for values in frame.itertuples(index=False, name=None):
        cells = zip(values, kinds, formatters, strict=True)
        rows.append("".join(_td(value, kind, how) for value, kind, how in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    made = (
        f'<table class="ct-table"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return folded_html(caption, made) if folded else made


def folded_html(title: str, *parts: str) -> str:
    """HTML that is closed until a reader opens it, and left out on paper.

    Args:
        title: what is inside.
        parts: HTML, one after the other.
    """
    return f'<details class="fold more"><summary>{html.escape(title)}</summary>{"".join(parts)}</details>'


def show_folded(title: str, *parts: str) -> None:
    """Display what `folded_html` makes."""
    display(HTML(folded_html(title, *parts)))


def table(
    frame: pd.DataFrame, caption: str, formats: Mapping[str, str] | None = None, folded: bool = False
) -> None:
    """Display a table; see `table_html`."""
    display(HTML(table_html(frame, caption, formats, folded)))


def result(frame: pd.DataFrame, caption: str, more: Mapping[str, Any]) -> None:
    """Display the table that a page begins with, and leave it for the index of the profile.

    Args:
        frame: rows to show, texts and numbers.
        caption: what it shows.
        more: what the index says beside it, as JSON has it: `asked` (the question), `tiles` (name, word, good),
            `claims` (verdict, sentence) and `caveats` (sentences); each may be missing.
    """
    shown = f'<div class="result">{table_html(frame, caption)}</div>'
    display(
        {"text/html": shown, "text/plain": frame.to_string(index=False), RESULT_TYPE: dict(more)}, raw=True
    )


def usual_format(column: pd.Series, signed: bool = False) -> str:
    """The format of a column, from its name and type.

    Args:
        column: a column.
        signed: columns `low` and `high` are the ends of a difference.

    >>> usual_format(pd.Series([0.25], name="fraction")), usual_format(pd.Series([12345], name="n"))
    ('{:.0%}', '{:,}')
    """
    name = str(column.name).lower()
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return "{}"
    if pd.api.types.is_integer_dtype(column):
        return "{:,}"
    values = column.dropna().astype("float64")
    if any(word in name for word in SHARES):
        return "{:.0%}" if (100 * values - (100 * values).round()).abs().max() < 1e-6 else "{:.1%}"
    if any(word in name for word in THREE_DECIMALS):
        difference = any(word in name for word in SIGNED) or (
            signed and name.split("_")[0] in ("low", "high")
        )
        return "{:+.3f}" if difference else "{:.3f}"
    if name.endswith("_mm") or " mm" in name:
        return "{:.2f}"
    return "{:,.0f}" if (values % 1 == 0).all() or values.abs().max() >= 100 else "{:.3g}"


def _td(value: Any, kind: str, how: str) -> str:
    """A cell; where its text is rounded, the value stands beside it, to sort by and to take along."""
    text = _cell(value, how)
    kind += ' class="long"' if kind == LEFT and len(text) > LONG else ""
    exact = str(value) if "num" in kind and not pd.isna(value) else text
    beside = "" if exact == text else f' data-v="{html.escape(exact)}"'
    return f"<td{kind}{beside}>{html.escape(text)}</td>"


def _cell(value: Any, how: str) -> str:
    if pd.isna(value):
        return NOTHING
    text = how.format(word(value) if isinstance(value, str) else value)
    return text if how == "{}" else text.replace("-", "−").replace("%", " %")
