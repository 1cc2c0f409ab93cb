"""A run as pages to read: `report/index.html` and each executed notebook beside it; no server, links inside the run."""

import json
import re
from html import escape
from pathlib import Path

import pandas
from PIL import Image

from ..disk.files import write_text
from ..evaluation import results

MATH = re.compile(r"\$[^$]+\$")
# the only thing from elsewhere, and only where there are formulas: without a network they stand as they are written
MATHJAX = """<script type="text/x-mathjax-config">MathJax.Hub.Config({tex2jax: {inlineMath: [["$", "$"]]}})</script>
<script async src="https://cdnjs.cloudflare.com/ajax/libs/mathjax/2.7.7/latest.js?config=TeX-AMS_CHTML-full,Safe">
</script>"""
CSS = """body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; max-width: 62rem;
padding: 1rem } a { color: #0b57a4 } h1, h2, h3 { line-height: 1.25 } code, pre { font-size: 0.9em; overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
caption { text-align: left; padding: 0.3rem 0; color: #444 } th, td { padding: 0.2rem 0.6rem; text-align: right;
border-bottom: 1px solid #ccc; white-space: nowrap } th[scope=row], tbody th { text-align: left }
.text_cell_render :is(th, td) { white-space: normal; text-align: left } td { vertical-align: top }
img { max-width: 100%; height: auto } figure { margin: 0; border: 1px solid #ccc; padding: 0.5rem }
figcaption { font-size: 0.85em; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem } dd { margin: 0; overflow-wrap: anywhere }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }
.input_area { background: #f6f6f6; border-left: 3px solid #0b57a4; padding: 0 0.8rem } .anchor-link { display: none }
.prompt { color: #555; font: 0.75em monospace } .cell { margin: 1rem 0 }"""


def write(run: Path | str, *private: Path) -> Path:
    """The report of what lies in a run folder; folders in `private`, and the run's, keep only their names. -> index."""
    run = Path(run).resolve()
    pages = [_page(path, [run, *private]) for path in sorted(run.glob("notebooks/[!.]*.ipynb"))]
    path = run / "manifest.json"
    facts = json.loads(path.read_text()) if path.is_file() else {}
    rows = results.read(run)
    parts = [f"<h1>ppcl: {escape(run.name)}</h1>", _facts(facts), *_short(rows)]
    parts += [_notebooks(pages, facts.get("seconds", {})), *_figures(run), *_results(rows)]
    files = [name for name in ("results.csv", "manifest.json") if (run / name).is_file()]
    links = ", ".join(f'<a href="../{name}">{name}</a>' for name in files)
    parts.append(f"<h2>Files</h2>\n<p>{links}</p>" if files else "")
    index = run / "report" / "index.html"
    write_text(index, document(f"ppcl: {run.name}", "\n".join(parts)))
    return index


def document(title: str, body: str, head: str = "") -> str:
    """A whole page; `body` and `head` are HTML, the title is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS}\n</style>\n{head}</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def table(rows: pandas.DataFrame, caption: str) -> str:
    """A table with its caption, everything escaped."""
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in rows.columns)
    lines = []
    for name, *values in rows.itertuples():
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr><td></td>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def _facts(facts: dict) -> str:
    """What the run was made of: commit, seed, device, versions, data."""
    if not facts:
        return ""
    known = ("commit", "seed", "device", "device_name", "threads")
    shown = {key.replace("_", " "): facts[key] for key in known if key in facts}
    shown["profile"] = ", ".join(dict.fromkeys(recipe["profile"] for recipe in facts.get("recipes", {}).values()))
    shown["notebooks' time"] = f"{sum(facts.get('seconds', {}).values()):.0f} s"
    if "peak_memory_mib" in facts:
        shown["peak memory"] = f"{facts['peak_memory_mib']} MiB"
    if pictures := facts.get("data", {}).get("pictures"):
        shown["pictures"] = ", ".join(f"{name} {count}" for name, count in pictures.items())
        shown["their SHA-256"] = facts["data"]["sha256"]
    shown["versions"] = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    lines = "\n".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in shown.items())
    return f"<h2>The run</h2>\n<dl>\n{lines}\n</dl>"


def _short(rows: pandas.DataFrame) -> list[str]:
    """The tables with which `reproduce` ends."""
    found = [table(shown, name) for name, shown in results.summary(rows).items()]
    words = "<h2>Results in short</h2>\n<p>Per cent, 95 % intervals in brackets. No published number stands here.</p>"
    return [words, *found] if found else []


def _results(rows: pandas.DataFrame) -> list[str]:
    """A table for each set and protocol; drawn pictures and photographs apart, and no published number beside them."""
    parts = ["<h2>All results</h2>\n<p>Per cent, 95 % intervals in brackets; over several seeds, the mean.</p>"]
    rows = rows.sort_values("task", key=lambda tasks: tasks.map(list(results.SUMMARY).index), kind="stable")
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
    return parts if len(parts) > 1 else []


def _notebooks(pages: list[dict], seconds: dict) -> str:
    if not pages:
        return ""
    lines = []
    for page in pages:
        took = f", {seconds[page['name']]:.0f} s" if page["name"] in seconds else ""
        link = f'<a href="{page["name"]}.html">{escape(page["title"])}</a>'
        lines.append(f'<li>{page["task"]}: {link}{took} (<a href="../notebooks/{page["name"]}.ipynb">ipynb</a>)</li>')
    return "<h2>Notebooks, executed</h2>\n<ul>\n" + "\n".join(lines) + "\n</ul>"


def _figures(run: Path) -> list[str]:
    """Every picture of the run with the caption that its file carries, and the PDF beside it."""
    parts = []
    for path in sorted(run.glob("figures/[!.]*.png")):
        with Image.open(path) as picture:
            words = escape(picture.info.get("Description", ""))
        name, files = escape(path.stem), [f'<a href="../figures/{path.name}">PNG</a>']
        if path.with_suffix(".pdf").is_file():
            files.append(f'<a href="../figures/{path.stem}.pdf">PDF</a>')
        picture = f'<img src="../figures/{path.name}" alt="{name}: {words}">'
        parts.append(f"<figure>{picture}\n<figcaption>{name}: {words} ({', '.join(files)})</figcaption></figure>")
    return ['<h2>Figures</h2>\n<div class="figures">', *parts, "</div>"] if parts else []


def _page(path: Path, private: list[Path]) -> dict:
    """A notebook as a page beside the index, unless that is there already. -> its name, task and title."""
    title = re.match(r"# (.*)", "".join(json.loads(path.read_text())["cells"][0]["source"]))
    page = {"name": path.stem, "task": path.stem.partition("_")[0], "title": title[1] if title else path.stem}
    target = path.parent.parent / "report" / f"{path.stem}.html"
    if not target.is_file() or target.stat().st_mtime_ns < path.stat().st_mtime_ns:
        body, head = _converted(path, page)
        for folder in sorted(private, key=lambda one: -len(str(one))):
            body = body.replace(escape(str(folder)), escape(folder.name))
        write_text(target, document(page["title"], f'<p><a href="index.html">← report</a></p>\n{body}', head))
    return page


def _converted(path: Path, page: dict) -> tuple[str, str]:
    """A notebook's cells as HTML, and what the page's head needs for them."""
    import nbformat  # these take seconds
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    def elsewhere(link: re.Match) -> str:
        other = path.with_name(f"{page['task']}_{link[1]}.ipynb")
        return f"]({other.stem}.html)" if other.is_file() else "](index.html)"

    notebook, heading, math = nbformat.read(path, as_version=4), page["title"], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^#+ (.*)", cell.source, re.M) or [heading])[-1]
            math = math or bool(MATH.search(cell.source))
            cell.source = re.sub(r"\]\((\w+)\.ipynb\)", elsewhere, cell.source)
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data.pop("application/vnd.jupyter.widget-view+json", None)  # its model is gone
                output.metadata["image/png"] = {"alt": f"Figure: {heading}"}
    notebook.metadata.pop("widgets", None)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    return body, f"<style>{HtmlFormatter().get_style_defs('.highlight')}</style>\n" + MATHJAX * math
