"""Documents made from the code: docs/methods.md, the JSON schema, config/README.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedred.config import FAMILIES, FIGURES, TABLES, Config, Experiment, Settings
from fedred.local_training import LocalTraining
from fedred.options import declared_options, declared_relations, range_in_words
from fedred.report.escapes import on_terminal

Description = dict[str, Any]
HEAD = """# Configuration

This page and `schema.json` are made from the code (`make documents`); a test keeps them equal to it.

A configuration of the workflow names experiments. An experiment is a group of base settings, a grid
over them, seeds, and the tables and figures that it feeds. Two experiments with a run in common share it.
`snakemake --configfile config/laptop.yaml` runs the experiments of that file alone.

A method is its name (`attack: min_max`), or has options (`attack: {name: scaling, factor: 5}`).
Options without a name are those of the default method: `partition: {clients: 10}` is a
`balanced_dirichlet`, and `partition.clients: [10, 20]` in a grid as well. A new name, as in
`partition.name: [iid]`, starts without the options of the method before.
What must hold between options stands below their table, with n participants in a round.

Values are read by the core schema of YAML 1.2. Spellings that YAML 1.1 reads as something else are
refused: `010`, `0x10`, `1_000`, `1:00`, `yes`, `no`, `on`, `off`, dates. A text that looks like a number
or a date stands in quotes.

A grid is a mapping of setting paths to lists of values, all combinations of which are run:

```yaml
experiments:
  thresholds:
    base:
      attack: min_max
      malicious: 28
      defense: fedredefense
    grid:
      defense.threshold: [0.5, 0.6, 0.7]
    seeds: [0, 1, 2]
```

`fedred run FILE` takes the settings of one run instead: what stands under `base` here, and `seed`.
"""


def json_schema() -> str:
    """Return the JSON schema of a configuration of the workflow."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def describe_families() -> dict[str, dict[str, Description]]:
    """Return family -> method -> description (see `describe_method`) as plain values."""
    return {
        f"{kind}s": {name: describe_method(method) for name, method in family.items()}
        for kind, family in FAMILIES.items()
    }


def describe_method(method: Any) -> Description:
    """Return papers, one sentence and options of a method; how an attack or a defense is tested."""
    options = {path: description for path, description in _options(method)}
    summary = (method.__doc__ or "").strip().splitlines()[0]
    papers = [paper.short for paper in method.papers]
    told = {key: vars(method)[key] for key in ("tested", "elsewhere") if key in vars(method)}
    relations = [str(relation) for relation in declared_relations(method)]
    return {
        "papers": papers,
        "summary": summary,
        "options": options,
        "relations": relations,
        **told,
    }


def _options(method: Any, prefix: str = "") -> Iterator[tuple[str, Description]]:
    """Yield the options of a method; those of a part of it have a dotted path."""
    hints = get_type_hints(method)
    for declared in declared_options(method):
        hint, path = hints[declared.name], f"{prefix}{declared.name}"
        if is_dataclass(hint):
            yield from _options(hint, f"{path}.")
            continue
        names = {kind: name for family in FAMILIES.values() for name, kind in family.items()}
        default = declared.default
        yield (
            path,
            {
                "default": names.get(type(default), default),
                "type": _type_in_words(hint),
                "range": range_in_words(declared.metadata["bounds"]),
                "help": declared.metadata["help"],
            },
        )


def _type_in_words(hint: Any) -> str:
    arguments = getattr(hint, "__args__", ())
    if arguments and all(isinstance(word, str) for word in arguments):
        return " or ".join(arguments)
    if arguments:
        return " or ".join("null" if a is type(None) else _type_in_words(a) for a in arguments)
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return words.get(hint) or str(hint.__name__).lower()


def print_families(families: Mapping[str, Mapping[str, Description]], console: Console) -> None:
    """Print families of methods as tables."""
    for family, methods in families.items():
        table = Table(
            "name", "papers, options, tests", title=family, title_justify="left", show_lines=True
        )
        for name, method in methods.items():
            table.add_row(on_terminal(name), Text("\n").join(map(on_terminal, _about(method))))
        console.print(table)


def _about(method: Description) -> Iterator[str]:
    yield "; ".join(method["papers"]) or method["summary"]
    if method["options"]:
        yield f"options: {_defaults(method)}"
    if method.get("tested"):
        yield f"tested: {method['tested']}"
    if method.get("elsewhere"):
        yield f"elsewhere: {method['elsewhere']}"


def _defaults(method: Description) -> str:
    options = (f"{path} ({_plain(o['default'])})" for path, o in method["options"].items())
    return "; ".join([", ".join(options), *method["relations"]])


METHODS_HEAD = """# Methods

This page is made from the code (`make documents`); a test keeps it equal to it. `fedred list` prints the
same. `fedred cite CONFIG` prints the BibTeX of the methods that a configuration uses.

One file a method: `fedred/attacks/NAME.py`, `fedred/defenses/NAME.py`, with its tests in
`tests/attacks/test_NAME.py`, `tests/defenses/test_NAME.py`. What all of a family must do is tested over
the whole family in `tests/attacks/test_attack_contract.py` and
`tests/defenses/test_defense_contract.py`. Whether an attack does to FedAvg what its paper claims, and
whether a defense beats FedAvg where its paper claims it, is measured in `tests/test_effects.py`.

Options, with types and ranges: [config/README.md](../config/README.md). Differences from the papers and
from the released code of FedREDefense: [deviations.md](deviations.md).
"""


def methods_page() -> str:
    """Return docs/methods.md: all methods with papers, options, tests, and what others do."""
    lines = [METHODS_HEAD]
    for family, methods in describe_families().items():
        told = "tested" in next(iter(methods.values()))
        heads = ["name", "paper", "options (default)"]
        heads += ["tested by definition", "public implementations"] if told else []
        lines += [f"## {family.capitalize()}", "", _row(heads), "|" + "---|" * len(heads)]
        for name, method in methods.items():
            cells = [f"`{name}`", "; ".join(method["papers"]), _defaults(method)]
            cells += [method["tested"], method["elsewhere"]] if told else []
            lines.append(_row(cells))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:g}" if isinstance(value, float) else str(value)


def config_readme() -> str:
    """Return config/README.md: every key with its type, range, default and meaning."""
    lines = [HEAD, "", "## Configuration", "", *_fields(Config), ""]
    lines += ["## Experiment", "", *_fields(Experiment), ""]
    lines += [f"Tables: {', '.join(TABLES)}. Figures: {', '.join(FIGURES)}.", ""]
    lines += ["## Settings", "", *_fields(Settings), ""]
    lines += ["### `training`", "", *_method_lines(describe_method(LocalTraining)), ""]
    for family, methods in describe_families().items():
        for name, method in methods.items():
            lines += [
                f"### `{family[:-1]}: {name}`",
                "",
                f"{method['summary']}{_cited(method)}",
                "",
            ]
            lines += [*_method_lines(method), ""]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _fields(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | meaning | default |"
    yield "|---|---|---|"
    for key, field in model.model_fields.items():
        default = getattr(field.default, "name", field.default)
        shown = "see below" if isinstance(default, BaseModel) else f"`{_plain(default)}`"
        if field.is_required():
            shown = "needed"
        yield f"| `{key}` | {field.description} | {shown} |"


def _cited(method: Description) -> str:
    return f" ({'; '.join(method['papers'])})" if method["papers"] else ""


def _method_lines(method: Description) -> Iterator[str]:
    if not method["options"]:
        yield "No options."
        return
    yield "| option | type | range | default | meaning |"
    yield "|---|---|---|---|---|"
    for path, option in method["options"].items():
        default = f"`{_plain(option['default'])}`"
        yield _row([f"`{path}`", option["type"], option["range"], default, option["help"]])
    if method["relations"]:
        rules = ", ".join(f"`{relation}`" for relation in method["relations"])
        yield from ("", f"Needed: {rules}.")
