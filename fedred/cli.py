"""The command `fedred`: one subcommand for each rule of the workflow, and some to look around."""

import json
import logging
import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from fedred.errors import UserError

USER_ERROR = 2
TRY_AGAIN = 75  # EX_TEMPFAIL: stopped by the time limit, to be started again

app = typer.Typer(
    help="Federated learning under poisoning, with FedREDefense and what it is compared with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger("fedred")


class Device(StrEnum):
    """Where to compute; `auto` takes a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Root = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets. Default: the variable FEDRED_DATA, else data/."),
]
Download = Annotated[bool, typer.Option(help="Download a data set that is not there.")]
Out = Annotated[Path, typer.Option(help="File to write.")]


@app.command()
def data(
    settings: Annotated[
        str, typer.Argument(help="Name of a data set, or {name: ..., option: ...}.")
    ],
    out: Out,
    root: Root = None,
    download: Download = True,
) -> None:
    """Read a data set into one file of uint8 tensors."""
    from fedred.datasets import save_dataset

    dataset = _load_source(_method("dataset", settings), root, download)
    save_dataset(dataset, out)
    shape = "x".join(map(str, dataset.input_shape))
    sizes = f"{len(dataset.train_labels)} training and {len(dataset.test_labels)} test images"
    log.info("%s: %s of %s, %d classes", out, sizes, shape, len(dataset.classes))


@app.command()
def partition(
    settings: Annotated[
        str, typer.Argument(help="Name of a partition, or {name: ..., alpha: ...}.")
    ],
    dataset: Annotated[Path, typer.Option(help="File written by `fedred data`.")],
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
) -> None:
    """Deal the training images to the clients; a picture is written beside the file."""
    from fedred.datasets import load_dataset
    from fedred.partition import save_partition
    from fedred.report.figures import FIGURES, write_figure

    clients = _deal(_method("partition", settings), load_dataset(dataset), seed)
    save_partition(clients, out)
    write_figure(FIGURES["partition"](out), out.with_suffix(""), formats=("png",))
    sizes = clients.sizes
    log.info("%s: %d clients of %d to %d images", out, len(sizes), sizes.min(), sizes.max())


@app.command()
def run(
    config: Annotated[
        str, typer.Argument(help="YAML file with the settings of one run, - for stdin.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    set: Annotated[
        list[str] | None, typer.Option(help="Change a setting: path=value. May be repeated.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="File written by `fedred data`.")] = None,
    partition: Annotated[
        Path | None, typer.Option(help="File written by `fedred partition`.")
    ] = None,
    root: Root = None,
    download: Download = True,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads to use.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after the round in which this time ends.")
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Rounds between two checkpoints.")
    ] = 5,
) -> None:
    """Simulate one setting; started again after an interruption, it goes on where it was."""
    from fedred.config import resolve
    from fedred.run import Limits, Stopped, assemble
    from fedred.run import run as play
    from fedred.run_folder import RunFolder

    settings = resolve(_read_settings(config), set or ())
    place = _prepare_torch(device, threads)
    source = _dataset_of(settings, dataset, root, download)
    clients = _partition_of(settings, partition, source)
    inputs = {"dataset": source.checksum, "partition": clients.checksum}
    folder = RunFolder(out, settings.model_dump(), inputs)
    if folder.is_complete():
        log.info("%s is complete: nothing to do", out)
        return
    federation = assemble(settings, source, clients, place)
    try:
        with _progress(settings.rounds) as progress:
            play(federation, folder, Limits(checkpoint_every, max_seconds), progress)
    except Stopped as stopped:
        reason = f"signal {stopped.signal}" if stopped.signal else "--max-seconds"
        log.warning(
            "stopped by %s after round %d of %d; run the same command again to go on",
            reason,
            stopped.round,
            settings.rounds,
        )
        raise typer.Exit(128 + stopped.signal if stopped.signal else TRY_AGAIN) from None
    log.info("%s: finished", out)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="Name of a table (see `fedred list`).")],
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.csv, OUT.md and OUT.tex; else print.")
    ] = None,
) -> None:
    """Make a table from finished runs."""
    from fedred.report.runs import load_runs
    from fedred.report.tables import TABLES, print_table, write_table

    frame = _named("table", name, TABLES)(load_runs(runs))
    if out:
        write_table(frame, name, out)
    else:
        print_table(frame, name, Console())


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure (see `fedred list`).")],
    inputs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs; a partition file for partition.")
    ],
    out: Annotated[Path, typer.Option(help="Write OUT.png and OUT.pdf.")],
) -> None:
    """Draw a figure from finished runs, or of a partition."""
    from fedred.report.figures import FIGURES, write_figure
    from fedred.report.runs import load_runs

    draw = _named("figure", name, FIGURES)
    write_figure(draw(inputs[0] if name == "partition" else load_runs(inputs)), out)


@app.command()
def summary(
    config: Annotated[Path, typer.Argument(help="Configuration of the workflow.")],
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Print the tables of a finished workflow and say where its results lie."""
    from fedred.config import read_yaml
    from fedred.plan import make_plan
    from fedred.report.runs import load_runs
    from fedred.report.tables import TABLES, print_table

    console = Console()
    plan = replace(make_plan(read_yaml(config)), results=str(results))
    for experiment in plan.experiments:
        loaded = load_runs(plan.run_folders(experiment))
        for name in plan.tables[experiment]:
            print_table(TABLES[name](loaded), name, console, title=f"{experiment}: {name}")
    for kind in ("tables", "figures", "report.html"):
        if (results / kind).exists():
            console.print(f"{kind:12} {results / kind}", highlight=False)


@app.command("list")
def list_methods(
    family: Annotated[
        str | None, typer.Argument(help="datasets, partitions, models, attacks or defenses.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    page: Annotated[bool, typer.Option(help="Print the whole page docs/methods.md.")] = False,
) -> None:
    """List data sets, partitions, models, attacks and defenses: papers, options, what is tested."""
    from fedred.documents import describe_families, methods_page, print_families

    if page:
        typer.echo(methods_page(), nl=False)
        return
    families = describe_families()
    if family is not None:
        families = {family: _named("family", family, families)}
    if as_json:
        typer.echo(json.dumps(families, indent=2))
    else:
        print_families(families, Console())


@app.command()
def cite(
    config: Annotated[
        Path, typer.Argument(help="Configuration of the workflow, or settings of one run.")
    ],
) -> None:
    """Print the BibTeX of exactly the methods that a configuration uses."""
    from fedred.citations import bibtex, cited_papers
    from fedred.config import read_yaml

    typer.echo(bibtex(cited_papers(read_yaml(config))), nl=False)


@app.command()
def schema(
    readme: Annotated[
        bool, typer.Option(help="Print the reference of all settings (config/README.md) instead.")
    ] = False,
) -> None:
    """Print the JSON schema of a configuration of the workflow."""
    from fedred.documents import config_readme, json_schema

    typer.echo(config_readme() if readme else json_schema(), nl=False)


def _named(kind: str, name: str, known: dict[str, Any]) -> Any:
    from fedred.errors import unknown_name

    if name not in known:
        raise UserError(unknown_name(kind, name, known))
    return known[name]


def _method(family: str, text: str) -> Any:
    """Build a method from its name or from a mapping with its options, written as YAML."""
    from fedred.config import parse_yaml, readable_numbers, resolve_method

    raw = readable_numbers(parse_yaml(text, f"the {family}"))
    return resolve_method(family, raw).build()


def _read_settings(config: str) -> dict[str, Any]:
    from fedred.config import parse_settings, read_yaml

    return (
        parse_settings(sys.stdin.read(), "standard input")
        if config == "-"
        else read_yaml(Path(config))
    )


def _load_source(source: Any, root: Path | None, download: bool) -> Any:
    from fedred.datasets import data_root

    return source.load(data_root(root), download)


def _dataset_of(settings: Any, file: Path | None, root: Path | None, download: bool) -> Any:
    from fedred.datasets import load_dataset

    return load_dataset(file) if file else _load_source(settings.dataset.build(), root, download)


def _deal(method: Any, dataset: Any, seed: int) -> Any:
    from fedred.partition import partition as deal

    clients = deal(method, dataset.train_labels, len(dataset.classes), seed, dataset.checksum)
    return replace(clients, class_names=dataset.classes)


def _partition_of(settings: Any, file: Path | None, dataset: Any) -> Any:
    from fedred.partition import load_partition

    if file:
        return load_partition(file)
    return _deal(settings.partition.build(), dataset, settings.seed)


def _prepare_torch(device: Device, threads: int | None) -> Any:
    """Choose the device and make PyTorch compute the same bits each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here; allowed are auto and cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if threads:
        torch.set_num_threads(threads)
    gpu = device is not Device.CPU and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _progress(rounds: int) -> Any:
    from fedred.progress import RunProgress

    return RunProgress(rounds, Console(stderr=True))


def main() -> NoReturn:
    """Run the command line; a mistake of the user is one sentence and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except UserError as error:
        Console(stderr=True).print(
            f"fedred: {error}", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(USER_ERROR)
    sys.exit(0)
