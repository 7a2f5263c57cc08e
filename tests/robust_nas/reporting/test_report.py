"""One file that needs no other, holds what the runs left, and runs in a browser without an error."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from robust_nas.reporting import run_report
from tests.cli_helpers import refused, run
from verify.checks.errors import InputError

VOID = {"meta", "link", "img", "br", "path", "use", "rect"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page(HTMLParser):
    """What a page holds; tags have to close what they open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.places, self.tags, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.places += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.places += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def two(here):
    """Folders of two certifications that differ in their method."""
    shutil.copytree(here / "good", here / "ibp")
    (here / "ibp" / "run.toml").write_text('command = "certify"\n')
    shutil.copytree(here / "ibp", here / "block")
    for name in ("certify.csv", "config.json"):
        path = here / "block" / name
        path.write_text(path.read_text().replace("ibp", "block"))
    return here


def test_the_page_is_whole_and_needs_nothing_else(two):
    text = run_report(["ibp", "block"]).path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.places and all(place.startswith(("data:", "#")) for place in page.places)
    assert "url(http" not in text and "@import" not in text
    words = " ".join(page.text)
    row = (two / "ibp" / "certify.csv").read_text().splitlines()[1].split(",")
    assert all(value in words for value in row)
    assert "command = \"certify\"" in words and "l-infinity" in words
    names = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert len([name for name in names if name == "certify.png"]) == 2 and "digits, the first 2 test images" in names[0]
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4
    marked = [tag for tag, attributes in page.tags if attributes.get("class") == "differs"]
    assert len(marked) == 2  # the method, in each of the two


def test_drawings_of_one_page_share_no_names(two):
    page = Page(run_report(["ibp", "block"]).path.read_text(encoding="utf-8"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(names)) == len(names)
    assert {place[1:] for place in page.places if place.startswith("#")} <= set(names)


def test_what_a_run_holds_is_text_and_no_markup(two):
    config = json.loads((two / "ibp" / "config.json").read_text())
    config["options"]["weights"] = "<script>alert(1)</script>"
    (two / "ibp" / "config.json").write_text(json.dumps(config))
    (two / "ibp" / "odd.csv").write_text('name\n"<img src=x onerror=alert(1)>"\n')
    page = Page(run_report(["ibp"]).path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_runs_of_other_images_are_not_drawn_together(two):
    shutil.copytree(two / "block", two / "one")
    rows = (two / "one" / "certify.csv").read_text().splitlines()
    (two / "one" / "certify.csv").write_text("\n".join(rows[:2]) + "\n")
    page = Page(run_report(["ibp", "one"]).path.read_text(encoding="utf-8"))
    assert not any("the first" in attributes.get("alt", "") for _, attributes in page.tags)


def test_a_folder_that_is_no_run_is_one_line(here, capsys):
    (here / "empty").mkdir()
    assert "no run of dsrna" in refused(capsys, "report", "empty")
    with pytest.raises(InputError):
        run_report([])


def test_the_command_writes_the_page(two, capsys):
    capsys.readouterr()
    assert run("report", "ibp", "--out", "mine.html") == 0
    assert capsys.readouterr().out == "mine.html\n" and (two / "mine.html").is_file()


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium here")
def test_a_browser_has_nothing_to_complain_of(two):
    path = run_report(["ibp", "block"]).path.resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run([browser, *options], capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in done.stderr and "</html>" in done.stdout
