"""Documents that are made from the code, or repeat what stands elsewhere, agree with it."""

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from small import SETTINGS, federation

from fedred.documents import config_readme, json_schema, methods_page
from fedred.simulation import attacker_view, initial_state, server_view, simulate

SAME_PACKAGE = {"pytorch": "torch"}


def pyproject():
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]


def requirements():
    """Return name -> version bound of every direct dependency."""
    project = pyproject()
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return dict(re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups() for line in lines)


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("config/README.md", config_readme),
        ("config/schema.json", json_schema),
        ("docs/methods.md", methods_page),
    ],
)
def test_generated_documents_are_up_to_date(path, made):
    assert Path(path).read_text() == made(), "run `make documents`"


@pytest.mark.parametrize(
    "path", ["config.yaml", "grid.yaml", "laptop.yaml", "limits.yaml", "paper.yaml", "sweeps.yaml"]
)
def test_the_json_schema_accepts_the_shipped_configurations(path):
    config = yaml.safe_load(Path("config", path).read_text())
    jsonschema.validate(config, json.loads(json_schema()))


@pytest.mark.parametrize(
    "base",
    [{"attak": "none"}, {"attack": "min_mx"}, {"rounds": 0}, {"training": {"lr": "fast"}}],
)
def test_the_json_schema_refuses_what_the_program_refuses(base):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"experiments": {"one": {"base": base}}}, json.loads(json_schema()))


def test_conda_environment_has_the_same_dependencies_as_pyproject():
    environment = yaml.safe_load(Path("environment.yml").read_text())
    conda = {}
    for line in environment["dependencies"]:
        if isinstance(line, str) and line != "pip":
            name, bound = re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups()
            conda[SAME_PACKAGE.get(name, name)] = bound
    editable, *pip = environment["dependencies"][-1]["pip"]
    assert editable == "--editable .", "conda hands these lines to pip as a requirements file"
    conda |= dict(re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups() for line in pip)
    assert conda.pop("python") == pyproject()["requires-python"]
    assert conda == requirements()


def test_the_lock_pins_every_direct_dependency_and_names_no_address():
    lock = Path("requirements.lock").read_text()
    pinned = {line.split("==")[0] for line in lock.splitlines()}
    assert set(requirements()) <= pinned
    assert not re.search(r"https?:|file:|--|@", lock)


def test_versions_agree():
    citation = yaml.safe_load(Path("CITATION.cff").read_text())
    assert citation["version"] == pyproject()["version"]
    assert f"## {pyproject()['version']}" in Path("CHANGELOG.md").read_text()


def test_every_dependency_has_its_line():
    text = Path("docs/dependencies.md").read_text()
    missing = [name for name in requirements() if f"`{name}`" not in text]
    assert not missing


EXAMPLES = {
    "attacks": ("free_rider", "FreeRider", {"scale": 2.0}),
    "defenses": ("mean_around_median", "MeanAroundMedian", {"tolerated": 1}),
}


@pytest.fixture(scope="module", params=EXAMPLES)
def extended(request, tmp_path_factory):
    """A copy of the project to which the guide's example was added: its file and its line."""
    family = request.param
    name, title, options = EXAMPLES[family]
    copy = tmp_path_factory.mktemp(family)
    for folder in ("fedred", "tests"):
        shutil.copytree(folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```python\n(.*?)```", Path("CONTRIBUTING.md").read_text(), re.DOTALL)
    (source,) = [block for block in blocks if f"class {title}" in block]
    (line,) = [block for block in blocks if block.strip() == f'"{name}": {title},']
    (copy / "fedred" / family / f"{name}.py").write_text(source)
    table = copy / "fedred" / family / "__init__.py"
    imported = f"from fedred.{family}.{name} import {title}\n"
    head, rest = table.read_text().split("] = {\n")
    first, *others = rest.splitlines(keepends=True)
    table.write_text(f"{imported}{head}] = {{\n{first}{line}{''.join(others)}")
    return copy, family, name, options


def in_copy(copy, *command):
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_example_of_the_guide_is_listed_and_runs(extended):
    copy, family, name, options = extended
    listed = in_copy(copy, "fedred", "list", family, "--json")
    assert name in json.loads(listed.stdout)[family]
    role = family.removesuffix("s")
    settings = {**SETTINGS, "attack": "mpaf", role: {"name": name, **options}}
    (copy / "one.yaml").write_text(yaml.safe_dump(settings))
    finished = in_copy(copy, "fedred", "run", "one.yaml", "--out", "run")
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((copy / "run" / "run.json").read_text())
    assert summary["settings"][role]["name"] == name
    assert "2018" in in_copy(copy, "fedred", "cite", "one.yaml").stdout or role == "attack"


@pytest.mark.slow
def test_the_contract_runs_over_the_example_of_the_guide(extended):
    copy, family, name, _ = extended
    tests = f"tests/{family}/test_{family.removesuffix('s')}_contract.py"
    done = in_copy(
        copy, "pytest", tests, "-k", f"[{name}", "-p", "no:cacheprovider", "-p", "no:xdist"
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 5


def test_the_attack_of_the_guide_sends_the_scaled_movement(tmp_path):
    attack = example("FreeRider", tmp_path)(scale=2.0)
    fed = dataclasses.replace(federation(attack="mpaf"), attack=attack)
    (first, _), (second, _) = itertools.islice(simulate(fed, initial_state(fed)), 2)
    view = attacker_view(fed, second, torch.tensor([6, 7]), torch.zeros(2, 5), 3)
    movement = second.weights - first.weights
    assert torch.equal(attack.forge(torch.zeros(2, 5), view).updates, (2 * movement).repeat(2, 1))


def test_the_defense_of_the_guide_is_a_loop_over_columns(tmp_path):
    rule = example("MeanAroundMedian", tmp_path)(tolerated=2)
    fed = federation(attack="none")
    view = server_view(fed, initial_state(fed), torch.arange(7), 1)
    updates = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nearest = [sorted(c, key=lambda v, c=c: abs(v - sorted(c)[3]))[:5] for c in updates.T.tolist()]
    expected = torch.tensor(nearest, dtype=torch.float64).mean(1)
    torch.testing.assert_close(rule(updates, view).aggregate, expected)


def example(name, folder):
    """Import the block of CONTRIBUTING.md that defines a class, and return the class."""
    blocks = re.findall(r"```python\n(.*?)```", Path("CONTRIBUTING.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if f"class {name}" in block]
    path = folder / f"example_{name.lower()}.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


DOCUMENTS = [
    Path("README.md"),
    *map(Path, ("CONTRIBUTING.md", "CHANGELOG.md")),
    *Path("docs").rglob("*.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_between_documents_lead_somewhere(document):
    prose = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (document.parent / target).exists(), target


def test_documents_named_in_the_code_exist():
    sources = [
        *Path("fedred").rglob("*.py"),
        *Path("config").glob("*.yaml"),
        Path("pyproject.toml"),
    ]
    named = {name for path in sources for name in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert named
    assert not [name for name in named if not Path(name).exists()]
