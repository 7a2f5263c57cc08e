"""What the site needs beside mkdocs: committed results at the place the guides link to, and formulas as MathML."""

import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

RESULTS = Path("experiments/results")
LINKED = re.compile(r"\]\(\.\./experiments/results/")
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files, config):
    """Add the results, which lie outside of docs/."""
    for path in sorted(RESULTS.rglob("*")):
        if path.suffix in (".png", ".md", ".csv"):
            uri = Path("results") / path.relative_to(RESULTS)
            files.append(File.generated(config, str(uri), abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to results are relative to the repository; here they are pages and pictures of the site. Other files of the
    repository are none of its pages: they are named."""
    return OUTSIDE.sub(r"\1 (`\2`)", LINKED.sub("](results/", markdown))


def on_page_content(html, page, config, files):
    """Browsers draw MathML by themselves: no script is needed, and none is fetched."""
    return FORMULA.sub(_mathml, html)


def _mathml(found):
    return convert(_plain(found[2]), display="inline" if found[1] == "span" else "block")


def _plain(text):
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
