"""Documents that are made from the code, or repeat what stands elsewhere, agree with it."""

import dataclasses
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import scipy.stats
import torch
import yaml
from small import federation, play

from fedred.documents import config_readme, describe_method, json_schema
from fedred.simulation import initial_state, local_updates, server_view

SAME_PACKAGE = {"pytorch": "torch"}


def pyproject():
    return tomllib.loads(Path("pyproject.toml").read_text())["project"]


def requirements():
    """Return name -> version bound of every direct dependency."""
    project = pyproject()
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return dict(re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups() for line in lines)


@pytest.mark.parametrize(
    ("path", "made"), [("config/README.md", config_readme), ("config/schema.json", json_schema)]
)
def test_generated_documents_are_up_to_date(path, made):
    assert Path(path).read_text() == made(), "run `make documents`"


@pytest.mark.parametrize("path", ["config.yaml", "laptop.yaml", "paper.yaml"])
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
    pip = environment["dependencies"][-1]["pip"]
    assert pip == ["--editable ."], "conda hands these lines to pip as a requirements file"
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


def test_the_attack_in_the_contribution_guide_works(tmp_path):
    attack = example("SignFlip", tmp_path)
    fed = dataclasses.replace(federation(attack="mpaf"), attack=attack(scale=2.0))
    updates = local_updates(fed, initial_state(fed).weights, torch.tensor([6, 7]), 1, 2)
    sent = attack(scale=2.0).forge(updates, None).updates
    assert torch.equal(sent, -2 * updates)
    assert play(fed)[0].weights.isfinite().all()
    assert describe_method(attack)["options"]["scale"]["range"] == "greater than 0"


def test_the_defense_in_the_contribution_guide_works(tmp_path):
    rule = example("TrimmedMean", tmp_path)(trimmed=1)
    fed = dataclasses.replace(federation(attack="mpaf"), defense=rule)
    updates = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    state = initial_state(fed)
    view = server_view(fed, state, torch.arange(7), 1, 1)
    expected = scipy.stats.trim_mean(updates.numpy(), 1 / 7, axis=0)
    torch.testing.assert_close(rule(updates, view).aggregate, torch.from_numpy(expected))
    assert play(fed)[0].weights.isfinite().all()


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
