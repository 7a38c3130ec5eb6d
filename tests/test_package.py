"""The wheel as a stranger gets it: built, installed elsewhere, run from `/`."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from, so that the checkout stays clean."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out, source]
    built = subprocess.run([*command, "--verbose"], check=True, capture_output=True, text=True)
    # A newcomer who sees hundreds of lines of such warnings takes the package for broken.
    assert "would be ignored" not in built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_package_and_data_file(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(p.relative_to(ROOT)) for p in (ROOT / "rankdistill").rglob("*.py")}
    for name in ("conf", "recipes", "eval"):
        expected |= {f"rankdistill/{p.relative_to(ROOT)}" for p in (ROOT / name).rglob("*.yaml")}
    data = ("*.jsonl", "*.j2", "*.html", "*.css", "*.md")
    expected |= {
        str(p.relative_to(ROOT)) for glob in data for p in (ROOT / "rankdistill").rglob(glob)
    }
    assert expected - inside == set()


def test_the_source_distribution_has_what_its_tests_stand_on(source, tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path]
    subprocess.run([*command, source], check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    there = [path for name in ("tests", "docs") for path in (source / name).rglob("*")]
    expected = {str(path.relative_to(source)) for path in there if path.is_file()}
    expected |= {"Makefile", "constraints.txt", "conf/config.yaml"}
    assert expected - inside == set()


def test_the_installed_wheel_runs_from_the_root_folder(wheel, tmp_path):
    """In a folder of its own, before everything else on the path: no trace of the checkout."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            tmp_path,
            wheel,
        ],
        check=True,
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "import rankdistill\n"
        "assert rankdistill.__file__.startswith(sys.path[0]), rankdistill.__file__\n"
        "sys.argv = ['rankdistill', 'recipe=rrhf', 'objective=pro', '--cfg', 'job']\n"
        "from rankdistill.app.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_target_: rankdistill.objectives.PRO" in done.stdout
    script = tmp_path / "bin" / "rankdistill"
    assert "rankdistill.__main__" in script.read_text()
