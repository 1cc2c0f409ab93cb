"""A run as pages to read: `report/index.html` and each executed notebook beside it, complete without a network."""

import json
import re
from html import escape
from pathlib import Path

import pandas
from PIL import Image

from ..disk.files import write_text
from ..evaluation import results

CSS = """body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0 } caption { text-align: left }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ccc; white-space: nowrap }
tbody th { text-align: left } img { max-width: 100% }
figcaption { overflow-wrap: anywhere }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }"""
LAB = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block data_png -%}{{ super() | replace("<img ", '<img alt="' + cell.metadata.alt + '" ') }}{%- endblock -%}
{%- block data_jpg -%}{{ super() | replace("<img ", '<img alt="' + cell.metadata.alt + '" ') }}{%- endblock -%}
{%- block body_header -%}{{ super() }}<p style="padding: 1rem"><a href="index.html">← report</a></p>{%- endblock -%}"""


def write(run: Path | str, *private: Path) -> Path:
    """Write the report of a run folder. Of the run's folder and those in `private` only the names stay. -> index."""
    run = Path(run).resolve()
    pages = [_page(path, [run, *private]) for path in sorted(run.glob("notebooks/[!.]*.ipynb"))]
    path = run / "manifest.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = results.read(run)
    parts = [f"<h1>ppcl: {escape(run.name)}</h1>"]
    for name, shown in results.summary(rows).items():
        parts.append(table(shown, f"{name}: per cent, 95 % intervals in brackets"))
    if pages:
        seconds = {name: f", {one:.0f} s" for name, one in facts.get("seconds", {}).items()}
        parts.append("<h2>Notebooks, executed</h2>\n<ul>")
        for name, title in pages:
            link = f'{name.partition("_")[0]}: <a href="{name}.html">{escape(title)}</a>{seconds.get(name, "")}'
            parts.append(f'<li>{link} (<a href="../notebooks/{name}.ipynb">ipynb</a>)</li>')
        parts.append("</ul>")
    parts += [*_figures(run), *_results(rows)]
    if facts:
        made = pandas.json_normalize({key: one for key, one in facts.items() if key not in ("recipes", "seconds")})
        parts.append(table(made.T.set_axis(["value"], axis=1), "What the run was made with"))
    files = [name for name in ("results.csv", "manifest.json") if (run / name).is_file()]
    parts.append("<p>" + ", ".join(f'<a href="../{name}">{name}</a>' for name in files) + "</p>")
    index, body = run / "report" / "index.html", "\n".join(parts)
    head = f'<meta charset="utf-8">\n<title>ppcl: {escape(run.name)}</title>\n<style>{CSS}</style>'
    write_text(index, f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n')
    return index


def table(rows: pandas.DataFrame, caption: str) -> str:
    """A table with its caption as HTML."""
    caption = f"<caption>{escape(caption)}</caption>"
    return rows.rename_axis(index=None, columns=None).to_html(border=0).replace("<thead>", f"{caption}<thead>", 1)


def _results(rows: pandas.DataFrame) -> list[str]:
    """A table for each set and protocol; drawn pictures and photographs apart, without published numbers."""
    parts = []
    whole = rows[(rows.subset == "all") & ~rows.metric.str.contains("without")]
    for (task, dataset, protocol, drawn), some in whole.groupby(
        ["task", "dataset", "protocol", "synthetic"], sort=False
    ):
        about = f"{dataset}, {protocol}: {'drawn pictures' if drawn else 'photographs'}, "
        about += f"{some.n_query.max()} {'pairs' if protocol == 'verification' else 'queries'}"
        about += f", {some.n_gallery.max()} gallery pictures, seed {', '.join(map(str, sorted(some.seed.unique())))}"
        over = some.metric.str.contains(" over ")
        shown = {"": some[~over], "; points by which ppcl lies above each row": some[over]}
        for more, chosen in shown.items():
            if len(chosen):
                found = results.wide(chosen, dataset, protocol, list(dict.fromkeys(chosen.metric))).fillna("")
                parts.append(table(found.T if more else found, f"{task}: {about}{more}"))
    words = "<h2>All results</h2>\n<p>Per cent, 95 % intervals in brackets; over several seeds, the mean.</p>"
    return [words, *parts] if parts else []


def _figures(run: Path) -> list[str]:
    """Every figure of the run with the caption in its file, and a link to its PDF."""
    parts = []
    for path in sorted(run.glob("figures/[!.]*.png")):
        with Image.open(path) as picture:
            words = escape(f"{path.stem}: {picture.info.get('Description', '')}")
        files = [one.name for one in (path, path.with_suffix(".pdf")) if one.is_file()]
        links = ", ".join(f'<a href="../figures/{name}">{name[-3:].upper()}</a>' for name in files)
        picture = f'<img src="../figures/{path.name}" alt="{words}">'
        parts.append(f"<figure>{picture}\n<figcaption>{words} ({links})</figcaption></figure>")
    return ['<h2>Figures</h2>\n<div class="figures">', *parts, "</div>"] if parts else []


def _page(path: Path, private: list[Path]) -> tuple[str, str]:
    """Write a notebook as a page beside the index, unless it is there and newer. -> name, title."""
    source = path.read_text(encoding="utf-8")
    title = re.match(r"# (.*)", "".join(json.loads(source)["cells"][0]["source"]))
    title = title[1] if title else path.stem
    target = path.parent.parent / "report" / f"{path.stem}.html"
    if not target.is_file() or target.stat().st_mtime_ns < path.stat().st_mtime_ns:
        page = _converted(path, title)
        for folder in sorted(private, key=lambda one: -len(str(one))):
            page = page.replace(escape(str(folder)), escape(folder.name))
        write_text(target, page)
    return path.stem, title


def _converted(path: Path, title: str) -> str:
    """A notebook as nbconvert's page, without scripts: formulas become MathML, which browsers typeset themselves."""
    import nbformat  # these take seconds
    from jinja2 import DictLoader
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter

    def formula(found: re.Match) -> str:
        text = found[1] or found[2]
        return convert(text, display="block" if found[1] else "inline") if text else found[0]

    def elsewhere(link: re.Match) -> str:
        other = path.with_name(f"{path.stem.partition('_')[0]}_{link[1]}.ipynb")
        return f"]({other.stem}.html)" if other.is_file() else "](index.html)"

    notebook, heading = nbformat.read(path, as_version=4), title
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.*)", cell.source, re.M) or [heading])[-1]
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", elsewhere, cell.source)
            cell.source = re.sub(r"`[^`]*`|\$\$(.+?)\$\$|\$(.+?)\$", formula, cell.source, flags=re.S)
            continue
        cell.metadata["alt"] = escape(f"Figure: {heading}")
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if {"image/png", "image/jpeg"} & output.get("data", {}).keys():
                output.data.pop("application/vnd.jupyter.widget-view+json", None)  # its model is gone
    notebook.metadata.pop("widgets", None)
    notebook.metadata["title"] = title
    loaders, template = [DictLoader({"page.html.j2": LAB})], "page.html.j2"
    return HTMLExporter(extra_loaders=loaders, template_file=template).from_notebook_node(notebook)[0]
