"""The report as HTML: one page whose pictures and style are inside it."""

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 58rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; min-width: 100%; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 2px solid #555; }
td { border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
ul.notes { color: #555; font-size: .85rem; padding-left: 1.1rem; }
figure { margin: 1rem 0; break-inside: avoid; }
figure img { width: 100%; max-width: 40rem; height: auto; display: block; }
figcaption { color: #555; font-size: .85rem; }
.maps { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.maps figure { margin: 0; }
.maps figcaption { color: #222; font-size: 1rem; font-weight: 600; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto;
  font-size: .8rem; line-height: 1.4; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  .scroll { overflow: visible; } table { font-size: 8pt; }
  th, td { padding: .15rem .3rem; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; }
  .maps { grid-template-columns: 1fr 1fr; }
}
"""


def page(title: str, *parts: str) -> str:
    """Returns a whole document of HTML parts under a title."""
    heading = html.escape(title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, '
            'initial-scale=1">',
            f"<title>{heading}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{heading}</h1>",
            *parts,
            "</body>",
            "</html>",
            "",
        ]
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def note_list(texts: Sequence[str]) -> str:
    """Small print, as a list."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f'<ul class="notes">{items}</ul>'


def table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    head = "".join(
        f"<th>{html.escape(text).replace(chr(10), '<br>')}</th>"
        for text in header
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in cells
    )
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def picture(figure: Figure, caption: str, description: str) -> str:
    """A figure as a PNG inside the page.

    Args:
        figure: what to draw.
        caption: below it.
        description: for those who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(description)}" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def side_by_side(pictures: Sequence[str]) -> str:
    """Pictures in a row where there is room, else below each other."""
    return f'<div class="maps">{"".join(pictures)}</div>'


def commands(texts: Sequence[str]) -> str:
    """Commands to copy."""
    return f"<pre>{html.escape(chr(10).join(texts))}</pre>"
