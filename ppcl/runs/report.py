"""A run as pages to read: `report/index.html` and each executed notebook beside it, complete without a network."""

import re
from html import escape
from pathlib import Path

import pandas
from PIL import Image

from ..disk.files import given_path, write_text
from ..evaluation import results
from .manifest import manifest


def write(run: Path | str, *private: Path) -> Path:
    """Write the report of a run folder. Of the run's folder and those in `private` only the names stay. -> index."""
    import nbformat

    run = given_path(run).resolve()
    pages = [_page(path, [run, *private]) for path in sorted(run.glob("notebooks/[!.]*.ipynb"))]
    facts, rows = manifest(run), results.read(run)
    seconds = {name: f", {one:.0f} s" for name, one in facts.get("seconds", {}).items()}
    parts = [f"# ppcl: {escape(run.name)}"]
    for name, shown in results.summary(rows).items():
        parts.append(table(shown, f"{name}: per cent, 95 % intervals in brackets"))
    links = [
        f'- {name.partition("_")[0]}: <a href="{name}.html">{escape(title)}</a>{seconds.get(name, "")} '
        f'(<a href="../notebooks/{name}.ipynb">ipynb</a>)'
        for name, title in pages
    ]
    parts += ["## Notebooks, executed", "\n".join(links)] if links else []
    parts += [*_figures(run), *_results(rows)]
    if facts:
        made = pandas.json_normalize({key: one for key, one in facts.items() if key not in ("recipes", "seconds")})
        parts.append(table(made.T.set_axis(["value"], axis=1), "What the run was made with"))
    files = [name for name in ("results.csv", "manifest.json") if (run / name).is_file()]
    parts.append(", ".join(f'<a href="../{name}">{name}</a>' for name in files))
    cells = [nbformat.v4.new_markdown_cell("\n\n".join(parts))]
    index = run / "report" / "index.html"
    write_text(index, _html(nbformat.v4.new_notebook(cells=cells), f"ppcl: {run.name}"))
    return index


def table(rows: pandas.DataFrame, caption: str) -> str:
    """A table with its caption as HTML."""
    caption = f"<caption>{escape(caption)}</caption>"
    return rows.rename_axis(index=None, columns=None).to_html(border=0).replace("<thead>", f"{caption}<thead>", 1)


def _results(rows: pandas.DataFrame) -> list[str]:
    """A table for each set and protocol; drawn pictures and photographs apart, without published numbers."""
    rows = rows[(rows.subset == "all") & ~rows.metric.str.contains("without")]
    parts, rows = [], rows.assign(above=rows.metric.str.contains(" over "))
    keys = ["task", "dataset", "protocol", "synthetic", "above"]
    for (task, dataset, protocol, drawn, over), some in rows.groupby(keys, sort=False):
        about = f"{task}: {dataset}, {protocol}: {'drawn pictures' if drawn else 'photographs'}, "
        about += f"{some.n_query.max()} {'pairs' if protocol == 'verification' else 'queries'}"
        about += f", {some.n_gallery.max()} gallery pictures, seed {', '.join(map(str, sorted(some.seed.unique())))}"
        found = results.wide(some, dataset, protocol, some.metric.unique()).fillna("")
        parts.append(table(found.T, f"{about}; points of ppcl above each row") if over else table(found, about))
    words = "Per cent, 95 % intervals in brackets; over several seeds, the mean."
    return ["## All results", words, *parts] if parts else []


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
    return ["## Figures", *parts] if parts else []


def _page(path: Path, private: list[Path]) -> tuple[str, str]:
    """Write a notebook as a page beside the index, unless it is there and newer. -> name, title."""
    import nbformat
    from latex2mathml.converter import convert

    def formula(found: re.Match) -> str:
        """MathML, which browsers typeset themselves."""
        text = found[1] or found[2]
        return convert(text, display="block" if found[1] else "inline") if text else found[0]

    def elsewhere(link: re.Match) -> str:
        other = path.with_name(f"{path.stem.partition('_')[0]}_{link[1]}.ipynb")
        return f"]({other.stem}.html)" if other.is_file() else "](index.html)"

    notebook, target = nbformat.read(path, as_version=4), path.parent.parent / "report" / f"{path.stem}.html"
    title = re.match(r"# (.*)", notebook.cells[0].source)
    title = title[1] if title else path.stem
    if target.is_file() and target.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return path.stem, title
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", elsewhere, cell.source)
            cell.source = re.sub(r"`[^`]*`|\$\$(.+?)\$\$|\$(.+?)\$", formula, cell.source, flags=re.S)
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            for kind in {"image/png", "image/jpeg"} & output.get("data", {}).keys():
                words, source = escape(output.data.get("text/plain", "figure")), output.data[kind]
                output.data = {"text/html": f'<img alt="{words}" src="data:{kind};base64,{source}">'}
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("[← report](index.html)"))
    page = _html(notebook, title)
    for folder in sorted(private, key=lambda one: -len(str(one))):
        page = page.replace(escape(str(folder)), escape(folder.name))
    write_text(target, page)
    return path.stem, title


def _html(notebook, title: str) -> str:
    """nbconvert's page of a notebook, without scripts."""
    from nbconvert import HTMLExporter  # takes seconds

    page = HTMLExporter(exclude_anchor_links=True).from_notebook_node(notebook, {"metadata": {"name": title}})[0]
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.S)
