"""What is installed is whole: the wheel, in an environment that has our dependencies and nothing of this folder."""

import configparser
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
EVERY_MODULE = """
import importlib, pathlib, pkgutil, sys
for name in sys.argv[1:]:
    top = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(top, "__path__", []), name + "."):
        importlib.import_module(module.name)
home = pathlib.Path(sys.prefix)
strangers = [name for name, module in sys.modules.items() if name.partition(".")[0] in sys.argv[1:]
             and home not in pathlib.Path(module.__file__ or module.__path__[0]).parents]
sys.exit(f"not from the wheel: {strangers}" if strangers else 0)
"""


def call(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    files = call("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in files:  # what a clone has: no build folder of an earlier day
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel):
    """A new environment with the wheel; it sees our dependencies by a .pth file, which follows no other .pth files: the
    editable installation of this folder is not among them."""
    home = wheel.parent / "environment"
    call(sys.executable, "-m", "venv", home)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    places = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (own / "dependencies.pth").write_text("\n".join(dict.fromkeys([*places, *site.getsitepackages()])))
    call(home / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    return home / "bin"


def tops(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    return sorted({Path(name).parts[0].removesuffix(".py") for name in names if ".dist-info" not in name})


@pytest.mark.slow
def test_every_module_of_the_wheel_can_be_imported(wheel, environment, tmp_path):
    call(environment / "python", "-c", EVERY_MODULE, *tops(wheel), cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [["--version"], ["zoo"], ["show", "PC-DARTS"], ["table", "5", "--scale", "smoke", "--dry-run"]], ids=" ".join
)
def test_the_command_finds_its_files(environment, tmp_path, line):
    assert call(environment / "dsrna", *line, cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_tells_type_checkers_that_it_has_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"verify/py.typed", "robust_nas/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]


def test_the_wheel_holds_what_commands_need_and_no_study():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    found = set(find_packages(str(ROOT), include=settings["options.packages.find"]["include"].split()))
    ours = {str(path.parent.relative_to(ROOT)).replace("/", ".") for top in ("cli", "verify", "robust_nas") for path in (ROOT / top).rglob("__init__.py")}
    assert found == ours | {"experiments", "experiments.tables"}
    assert {path.name for path in (ROOT / "experiments").glob("*.py")} == {"__init__.py", "common.py", "demo.py"}


def test_citation_and_package_have_one_version():
    lines = [(ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("CITATION.cff", "setup.cfg")]
    cited, packaged = (
        next(line.split(mark)[1].strip() for line in text if line.startswith(f"version{mark}"))
        for text, mark in zip(lines, (": ", " = "), strict=True)
    )
    assert cited == packaged
