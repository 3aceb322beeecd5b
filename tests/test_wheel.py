"""The wheel, really built, and used from where it was installed, away from the checkout."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    target = ["--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)]
    subprocess.run([*pip, "install", *target], check=True)
    return folder / "site"


def ran(site, *words):
    """What this Python prints with the installed package before the checkout."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_that_ships_is_in_it(site):
    def names(folder, pattern):
        return {file.relative_to(folder).as_posix() for file in folder.rglob(pattern)}

    installed = site / "miras_search"
    for shipped in ("spaces", "recipes"):
        assert names(installed / shipped, "*") == names(ROOT / shipped, "*")
    for pattern in ("*.py", "*.parquet", "*.html", "py.typed"):
        found = names(installed, pattern)
        assert found == names(ROOT / "miras_search", pattern)
        assert found
    assert [*site.glob("miras_search-*.dist-info/licenses/LICENSE")]


def test_what_it_imports_is_required(site):
    """By the package itself or by an extra that users may ask for, not only by another package."""
    (about,) = site.glob("miras_search-*.dist-info")
    lines = map(Requirement, metadata.PathDistribution(about).requires)
    asked = {r.name for r in lines if not re.search("extra == .(dev|docs|bench).", str(r.marker))}
    # Of what need not be installed here.
    of_name = {"fla": ["flash-linear-attention"], "lm_eval": ["lm-eval"]}
    of_name |= metadata.packages_distributions()
    for file in (site / "miras_search").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names} - {"miras_search"}:
                known = top in sys.stdlib_module_names
                found = {name.lower() for name in of_name.get(top, ())}
                assert known or found & asked, f"{file.name} imports {top}"


@pytest.mark.slow  # `make wheel` runs it too, with nothing else installed
def test_it_runs_away_from_the_checkout(site):
    where = ran(site, "-c", "import miras_search; print(miras_search.__file__)").strip()
    assert Path(where) == site / "miras_search" / "__init__.py"
    plan = json.loads(ran(site, "-m", "miras_search", "plan", "core", "bytes", "batch=1", "--json"))
    assert plan["feasible"] > 0
    assert "huber" in ran(site, "-m", "miras_search", "show", "yaad")
    script = next((site / "bin").glob("miras-search"))
    assert "sweep" in ran(site, str(script), "--help")


def test_types_of_it_are_known(site, tmp_path):
    (tmp_path / "use.py").write_text(
        "from miras_search import Recipe, Space\n"
        "size: str = Space.load('core').size\n"
        "steps: int = Recipe.load('bytes').steps\n"
    )
    pyright = Path(sys.executable).parent / "pyright"
    settings = {"extraPaths": [str(site)], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run([pyright, "--outputjson"], cwd=tmp_path, capture_output=True, text=True)
    errors = json.loads(done.stdout)["generalDiagnostics"]
    assert [e["range"]["start"]["line"] for e in errors] == [1], errors
