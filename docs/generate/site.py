"""What the site has beside its Markdown: pictures from our own operators, speeds from the committed results, MathML.

A hook of mkdocs. In a page, `<!-- speeds: test_nms -->` becomes the table of the races whose names begin so,
`<!-- facts: yolov3 -->` what is known of a detector; figures/<name>.svg is what `<name>()` of the figures draws.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), *(str(ROOT / folder) for folder in ("docs/generate", "tests", "benchmarks"))]

import detector_figures  # noqa: E402, F401  (adds to FIGURES)
import report  # noqa: E402
import results  # noqa: E402
from operator_figures import FIGURES  # noqa: E402
from readme_table import operator_table  # noqa: E402

from pydet.models import MODELS  # noqa: E402
from pydet.models.summary import at_published_size  # noqa: E402

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures, drawn now, and what was measured."""
    for name, draw in FIGURES.items():
        files.append(File.generated(config, f"figures/{name}.svg", content=draw()))
    for path in (ROOT / "benchmarks" / "results").glob(
        "*.md"
    ):  # under their own names, so that the README's links hold
        content = path.read_text(encoding="utf-8")
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in what is written down elsewhere."""
    markdown = re.sub(r"<!-- speeds: (\S+) -->", lambda match: speeds(match[1]), markdown)
    markdown = re.sub(r"<!-- facts: (.+) -->", lambda match: facts(match[1].split()), markdown)
    if "<!-- detectors -->" in markdown:
        markdown = markdown.replace(
            "<!-- detectors -->", report.detector_table(results.shown(results.read(report.RESULTS)))
        )
    return markdown.replace("<!-- operators -->", linked(operator_table()))


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML, which browsers show by themselves."""
    return FORMULA.sub(formula, content)


def formula(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    return f'<{match[1]} class="arithmatex">{convert(html.unescape(match[2]).strip(), display=display)}</{match[1]}>'


def speeds(prefix: str) -> str:
    """The races whose names begin so, as a table: pydet, and how many times as long libraries and definition take.

    Raises:
        ValueError: there is no such race.
    """
    run = results.shown(results.read(report.RESULTS))
    races = {name: results.result(record).seconds for name, record in run["races"].items() if name.startswith(prefix)}
    if not races:
        raise ValueError(f"speeds: no race of {report.RESULTS.name} begins with {prefix!r}")
    found = {other for seconds in races.values() for other in seconds}
    others = [other for other in (*report.PEERS, "reference") if other in found]
    lines = ["| | pydet | " + " | ".join(others) + " |", "|---" * (len(others) + 2) + "|"]
    for name, seconds in races.items():
        ours = seconds["pydet"]
        cells = [f"{report.readable(s)} ({s / ours:.3g}×)" if (s := seconds.get(o)) else "" for o in others]
        lines.append(f"| {name.removeprefix('test_')} | **{report.readable(ours)}** | {' | '.join(cells)} |")
    where = f"{run['cpu']} ({run['cpu_level']}), {run['threads']} threads, torch {run['versions']['torch']}"
    return "\n".join([*lines, "", f"Medians on {where}, {run['date']}; in brackets how many times pydet's time."])


def facts(names: list[str]) -> str:
    """What is known of detectors, a row each."""
    lines = ["| | input | labels | parameters | GFLOP a picture | weights |", "|---|---|---|---|---|---|"]
    for name in names:
        definition = MODELS[name]
        network, layers = at_published_size(definition)
        height, width = definition.image_size
        count, work = sum(p.numel() for p in network.parameters()), sum(row.flops for row in layers) / 1e9
        weights = f"[{w.file}]({w.page})" if (w := definition.weights) else "nobody is known to publish any"
        lines.append(
            f"| `{name}` | {height} × {width} | {len(network.class_names):,} | {count:,} | {work:,.2f} | {weights} |"
        )
    return "\n".join(lines)


def linked(table: str) -> str:
    """The README's table of operators, each with a link to its page."""
    from op_cases import OP_CASES

    stems = {case.name: case.stem for case in OP_CASES}
    return re.sub(r"^\| `(\w+)` \|", lambda match: f"| [`{match[1]}`]({stems[match[1]]}.md) |", table, flags=re.M)
