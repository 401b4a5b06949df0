"""The command `fedred`: one subcommand for each rule of the workflow, and some to look around."""

import json
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from fedred.allocation import keep_freed_memory
from fedred.errors import BusyError, UserError, WriteError, printable, shortened
from fedred.paths import (
    expanded,
    require_free,
    require_outputs,
    require_writable,
    shown,
    with_endings,
)
from fedred.streams import guarded
from fedred.yaml_reading import LARGEST

app = typer.Typer(
    help="Federated learning under poisoning, with FedREDefense and what it is compared with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
log = logging.getLogger("fedred")
STDIN = Path("-")


def named(text: str | Path) -> Path:
    """Return the path that a user names: of a file or a folder."""
    if not str(text):
        raise typer.BadParameter("it is empty: name a file or a folder")
    return expanded(str(text))


def named_file(text: str | Path) -> Path:
    """Return the path of a file that a user names."""
    path = named(text)
    if os.path.basename(str(text)) in ("", ".", "..", "~"):
        raise typer.BadParameter("it names a folder: name a file in it")
    return path


def settings_file(text: str | Path) -> Path:
    """Return the path of a file that a user names, or STDIN."""
    path = named_file(text)
    return path.absolute() if path == STDIN and str(text) != str(STDIN) else path


class Device(StrEnum):
    """Where to compute; `auto` takes a GPU if there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Compile(StrEnum):
    """Whether torch.compile is used; `auto` in runs that are long enough, on a CPU."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


Root = Annotated[
    Path | None,
    typer.Option(
        parser=named, help="Folder of the data sets. Default: the variable FEDRED_DATA, else data/."
    ),
]
Download = Annotated[bool, typer.Option(help="Download a data set that is not there.")]
Out = Annotated[Path, typer.Option(parser=named_file, help="File to write.")]
Results = Annotated[Path, typer.Option(parser=named, help="Folder of the results.")]
Place = Annotated[Device, typer.Option(help="Where to compute.")]
JobsPerGPU = Annotated[
    int,
    typer.Option(
        min=1, envvar="FEDRED_JOBS_PER_GPU", help="Runs that may share a GPU; others wait."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads to use.")]
Chunk = Annotated[
    int | None, typer.Option(min=1, help="Clients computed at once; default: chosen.")
]
Compiled = Annotated[Compile, typer.Option(help="Use torch.compile; auto: in long runs on a CPU.")]


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

    require_outputs([out])
    _require_no_source(out, root)
    dataset = _load_source(_method("dataset", settings), root, download)
    save_dataset(dataset, out)
    for remark in dataset.remarks:
        log.warning("%s", remark)
    log.info("classes: %s", dataset.numbered_classes)
    shape = "x".join(map(str, dataset.input_shape))
    sizes = f"{len(dataset.train_labels)} training and {len(dataset.test_labels)} test images"
    log.info("%s: %s of %s, %d classes", out, sizes, shape, len(dataset.classes))


@app.command()
def partition(
    settings: Annotated[
        str, typer.Argument(help="Name of a partition, or {name: ..., alpha: ...}.")
    ],
    dataset: Annotated[
        Path, typer.Option(parser=named_file, help="File written by `fedred data`.")
    ],
    out: Out,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST, help="Seed of the draw.")] = 0,
) -> None:
    """Deal the training images to the clients; a picture is written beside the file."""
    from fedred.datasets import load_dataset
    from fedred.partition import save_partition

    picture = Path(f"{out.with_suffix('') if out.suffix == '.safetensors' else out}.png")
    require_outputs([out, picture], [dataset])
    clients = _deal(_method("partition", settings), load_dataset(dataset), seed)
    save_partition(clients, out)
    sizes = clients.sizes
    log.info("%s: %d clients of %d to %d images", out, len(sizes), sizes.min(), sizes.max())
    _draw_partition(out, picture)
    log.info("%s: picture of it", picture)


@app.command()
def run(
    config: Annotated[
        Path,
        typer.Argument(
            parser=settings_file, help="YAML file with the settings of one run, - for stdin."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=named, help="Folder of the run.")],
    set: Annotated[
        list[str] | None, typer.Option(help="Change a setting: path=value. May be repeated.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(parser=named_file, help="File written by `fedred data`.")
    ] = None,
    partition: Annotated[
        Path | None, typer.Option(parser=named_file, help="File written by `fedred partition`.")
    ] = None,
    root: Root = None,
    download: Download = True,
    device: Place = Device.AUTO,
    jobs_per_gpu: JobsPerGPU = 1,
    threads: Threads = None,
    chunk: Chunk = None,
    compile: Compiled = Compile.AUTO,
    tf32: Annotated[
        bool, typer.Option(help="Let a GPU round factors to TF32: faster, other last digits.")
    ] = False,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0, show_default=False, help="Stop after the round in which this time ends."
        ),
    ] = math.inf,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Rounds between two checkpoints.")
    ] = 5,
) -> None:
    """Simulate one setting; started again after an interruption, it goes on where it was."""
    from fedred.config import resolve
    from fedred.execution import Execution
    from fedred.run import Limits, assemble, executed
    from fedred.run import run as play
    from fedred.run_folder import RunFolder

    deadline = time.monotonic() + max_seconds
    settings = resolve(_read_settings(config), set or ())
    folder = RunFolder(out, settings.model_dump(), inputs={})
    require_free(folder.files, [path for path in (config, dataset, partition) if path])
    if not folder.is_summed_up():
        require_writable(folder.files)
    _prepare_torch(threads, tf32)
    _require_cuda(device)
    source = _dataset_of(settings, dataset, root, download)
    clients = _partition_of(settings, partition, source)
    folder = replace(folder, inputs={"dataset": source.checksum, "partition": clients.checksum})
    execution = Execution(chunk, compile.value, jobs_per_gpu)
    limits = Limits(checkpoint_every, deadline)
    federation = assemble(settings, source, clients)

    def play_rounds() -> None:
        with _lease(device, jobs_per_gpu), _progress(settings.rounds) as progress:
            placed = executed(federation, _place(device), execution)
            play(placed, folder, limits, progress)

    with _telling_stops(settings.rounds):
        played = _played_once(folder, deadline, play_rounds)
    log.info("%s: finished" if played else "%s is complete: nothing to do", out)


@app.command()
def reconstruct(
    recording: Annotated[
        Path,
        typer.Argument(
            parser=named_file, help="Updates of one round, in the folder updates of a run."
        ),
    ],
    out: Annotated[Path, typer.Option(parser=named_file, help="Parquet file to write.")],
    defense: Annotated[
        str | None,
        typer.Option(help="{name: fedredefense, ...} as it reconstructs. Default: the run's own."),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="Made for every client. Default: its first_iterations."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            parser=named_file, help="Also keep the synthetic images: safetensors file to write."
        ),
    ] = None,
    device: Place = Device.AUTO,
    jobs_per_gpu: JobsPerGPU = 1,
    threads: Threads = None,
    chunk: Chunk = None,
    compile: Compiled = Compile.AUTO,
) -> None:
    """Compute all error curves of recorded updates, and the scores of other rules beside them."""
    from fedred.execution import Execution
    from fedred.offline import (
        diverged_clients,
        judge_offline,
        placed,
        reconstructing,
        write_images,
        write_judged,
    )
    from fedred.progress import work_bar
    from fedred.recording import read_recording

    require_outputs([out, images] if images else [out], [recording])
    recorded = read_recording(recording)
    method = reconstructing(recorded, _method("defense", defense) if defense else None)
    budget = iterations or method.reconstruction.first_iterations
    _prepare_torch(threads, tf32=False)
    total = budget * len(recorded.clients)
    with _lease(device, jobs_per_gpu), work_bar(total, Console(stderr=True)) as tick:
        execution = Execution(chunk, compile.value, jobs_per_gpu)
        judged = placed(recorded, _place(device), execution, budget)
        frame, learned = judge_offline(judged, method, budget, tick)
    if images:
        write_images(learned, recorded, images)
    failed = diverged_clients(learned, recorded)
    if failed:
        log.warning("the reconstruction diverged for %d clients", len(failed))
    write_judged(frame, recorded, method.threshold, out, failed)
    log.info("%s: %d clients, %d iterations each", out, len(recorded.clients), budget)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="Name of a table (see `fedred list`).")],
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=named, help="Folders of finished runs; files of `fedred reconstruct`."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=named_file,
            help="Write OUT.csv, .html, .md and .tex, or the one that OUT ends with; else print.",
        ),
    ] = None,
) -> None:
    """Make a table from finished runs, or of updates judged offline."""
    from fedred.report.tables import (
        FORMATS,
        OFFLINE_TABLES,
        TABLES,
        made_table,
        print_table,
        write_table,
    )

    _known("table", name, TABLES | OFFLINE_TABLES)
    if out:
        require_outputs([*with_endings(out, FORMATS).values()], _files_of(runs))
    frame = made_table(name, runs)
    if out:
        log.info("%s: table %s", _listed(write_table(frame, name, out)), name)
    else:
        print_table(frame, name, Console())


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure (see `fedred list`).")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            parser=named,
            help="Folders of finished runs; a partition file; files of `fedred reconstruct`.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            parser=named_file, help="Write OUT.png and OUT.pdf, or the one that OUT ends with."
        ),
    ],
) -> None:
    """Draw a figure from finished runs, or of a partition."""
    from fedred.report.figures import FIGURES, FORMATS, made_figure, write_figure

    if name not in FIGURES:
        from fedred.report.offline import OFFLINE_FIGURES  # scikit-learn loads slowly

        _known("figure", name, FIGURES | OFFLINE_FIGURES)
    require_outputs([*with_endings(out, FORMATS).values()], _files_of(inputs))
    written = write_figure(made_figure(name, inputs), out)
    log.info("%s: figure %s", _listed(written), name)


@app.command()
def summary(
    config: Annotated[
        Path, typer.Argument(parser=named_file, help="Configuration of the workflow.")
    ],
    results: Results = Path("results"),
) -> None:
    """Print the tables of a finished workflow and say where its results lie."""
    from fedred.plan import as_arguments, make_plan
    from fedred.report.tables import made_table, print_table
    from fedred.yaml_reading import read_yaml

    console = Console()
    plan = replace(make_plan(read_yaml(config)), results=str(results))
    for experiment in plan.experiments:
        for name in plan.tables[experiment]:
            sources = [Path(source) for source in as_arguments(plan.sources(experiment, name))]
            print_table(made_table(name, sources), name, console, title=f"{experiment}: {name}")
    for kind in ("tables", "figures", "report.html"):
        if (results / kind).exists():
            console.print(Text(f"{kind:12} {shown(results / kind)}"), soft_wrap=True)


@app.command()
def plan(
    config: Annotated[
        Path, typer.Argument(parser=named_file, help="Configuration of the workflow.")
    ],
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            parser=named, help="Folder of a finished run whose pace is taken. May be repeated."
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Machines or GPUs that share the work.")] = 1,
) -> None:
    """Print the number of runs of a configuration, their work, and how long it takes."""
    from fedred.estimate import estimates, pace_of, print_estimates
    from fedred.plan import make_plan
    from fedred.yaml_reading import read_yaml

    planned = make_plan(read_yaml(config))
    for sentence in planned.doubts():
        log.warning("%s", sentence)
    found = estimates(planned)
    print_estimates(found, pace_of(measured) if measured else None, gpus, Console())


@app.command()
def publish(
    config: Annotated[
        Path, typer.Argument(parser=named_file, help="Configuration of a finished workflow.")
    ],
    name: Annotated[str, typer.Argument(help="Name of the study: results/published/NAME.")],
    results: Results = Path("results"),
    machine: Annotated[
        str | None, typer.Option(help="What computed the runs. Default: this machine.")
    ] = None,
) -> None:
    """Keep what the tables and figures of a finished study are made from, to be committed."""
    from fedred.publish import CONFIGURATION
    from fedred.publish import publish as keep

    folder = keep(config, name, results, machine)
    shown_by = shlex.join(["snakemake", "--configfile", str(folder / CONFIGURATION)])
    log.info("%s: shown by %s", folder, shown_by)


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
        families = {family: _known("family", family, families)}
    if as_json:
        typer.echo(json.dumps(families, indent=2))
    else:
        print_families(families, Console())


@app.command()
def cite(
    config: Annotated[
        Path,
        typer.Argument(
            parser=named_file, help="Configuration of the workflow, or settings of one run."
        ),
    ],
) -> None:
    """Print the BibTeX of exactly the methods that a configuration uses."""
    from fedred.citations import bibtex, cited_papers
    from fedred.yaml_reading import read_yaml

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


def _known(kind: str, name: str, known: dict[str, Any]) -> Any:
    from fedred.errors import unknown_name

    if name not in known:
        raise UserError(unknown_name(kind, name, known))
    return known[name]


def _method(family: str, text: str) -> Any:
    """Build a method from its name or from a mapping with its options, written as YAML."""
    from fedred.config import resolve_method
    from fedred.yaml_reading import parse_yaml, within_limits

    raw = within_limits(parse_yaml(text, f"the {family}"), (family,))
    return resolve_method(family, raw).build()


def _read_settings(config: Path) -> dict[str, Any]:
    from fedred.files import told
    from fedred.yaml_reading import MOST_BYTES, decoded, parse_settings, read_yaml

    if config != STDIN:
        return read_yaml(config)
    with told("standard input cannot be read"):
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
    return parse_settings(decoded(content, "standard input"), "standard input")


def _played_once(folder: Any, deadline: float, play: Callable[[], None]) -> bool:
    """Play a run, alone in its folder, unless it is complete; tell whether it was played."""
    from fedred.folder_lock import owned

    if folder.is_complete():  # its folder may be read-only, and needs no lock
        with suppress(BusyError, WriteError), owned(folder.path, time.monotonic()):
            folder.tidy()
        return False
    with owned(folder.path, deadline):
        folder.tidy()
        if folder.is_complete():  # by the process that was waited for
            return False
        play()
    return True


@contextmanager
def _telling_stops(rounds: int) -> Iterator[None]:
    """End the process with one line and the code of its reason when a run is stopped."""
    from fedred.run import Stopped

    try:
        yield
    except Stopped as stopped:
        reason = f"signal {stopped.signal}" if stopped.signal else "--max-seconds"
        log.warning(
            "stopped by %s after round %d of %d; run the same command again to go on",
            reason,
            stopped.round,
            rounds,
        )
        raise typer.Exit(128 + stopped.signal if stopped.signal else BusyError.exit_code) from None


def _files_of(sources: Iterable[Path]) -> Iterator[Path]:
    """Yield sources of tables and figures, and the files of those that are folders of runs."""
    for source in sources:
        yield source
        folder = source.parent if source.name == "run.json" else source
        yield from (folder / name for name in ("run.json", "rounds.csv", "clients.parquet"))


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(map(shown, paths))


def _draw_partition(partition: Path, picture: Path) -> None:
    """Draw a partition; where that fails, the picture says so: the partition is what counts."""
    from matplotlib.figure import Figure

    from fedred.report.figures import FIGURES, write_figure

    try:
        write_figure(FIGURES["partition"](partition), picture, formats=("png",))
    except WriteError:
        raise
    except Exception as error:  # nearly any, from what a font or a library makes of a text
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("%s could not be drawn (%s): the picture says so", partition, shortened(told))
        empty = Figure(figsize=(4, 1))
        empty.text(0.5, 0.5, "This partition could not be drawn", ha="center", va="center")
        write_figure(empty, picture, formats=("png",))


def _require_no_source(out: Path, root: Path | None) -> None:
    """Refuse to overwrite what lies in the data folder, but for a data set that was written before."""
    from fedred.datasets import data_root
    from fedred.files import read_tensors

    folder = data_root(root)
    inside = Path(os.path.realpath(out)).is_relative_to(os.path.realpath(folder))
    if inside and os.path.exists(out):
        try:
            read_tensors(out, "data set")
        except UserError:
            raise UserError(
                f"{shown(out)} lies in the data folder {shown(folder)} and was not written by "
                "fedred data: write to another file"
            ) from None


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


def _prepare_torch(threads: int | None, tf32: bool) -> None:
    """Choose how PyTorch computes. CUDA is not started: no GPU is leased yet."""
    keep_freed_memory()
    import torch

    from fedred.execution import compute_deterministically

    compute_deterministically()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if threads:
        torch.set_num_threads(threads)


def _lease(device: Device, jobs_per_gpu: int) -> AbstractContextManager[object]:
    """Hold a GPU of this machine, if there is one that this run may use."""
    import torch

    from fedred.gpu_lease import leased

    wanted = device is not Device.CPU and torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    return leased(jobs_per_gpu=jobs_per_gpu) if wanted else nullcontext()


def _require_cuda(device: Device) -> None:
    """Refuse, before anything is written, a GPU that this PyTorch cannot use; CUDA is not started."""
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        _refuse_cuda(device)


def _refuse_cuda(device: Device) -> None:
    if device is Device.CUDA:
        raise UserError("--device cuda: PyTorch finds no GPU here; allowed are auto and cpu")


def _place(device: Device) -> Any:
    """Choose where to compute; the first question about a GPU starts CUDA."""
    import torch

    gpu = device is not Device.CPU and torch.cuda.is_available()
    if not gpu:
        _refuse_cuda(device)
    return torch.device("cuda" if gpu else "cpu")


def _progress(rounds: int) -> Any:
    from fedred.progress import RunProgress

    return RunProgress(rounds, Console(stderr=True))


def _noting_interrupt() -> list[int]:
    """Return a list that is empty until Ctrl-C is pressed."""
    interrupted: list[int] = []

    def note(number: int, frame: FrameType | None) -> NoReturn:
        interrupted.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    return interrupted


def _made_printable(record: logging.LogRecord) -> bool:
    """Let names stand in the log as they may stand in a line."""
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(_made_printable)
    logging.basicConfig(format="%(message)s", handlers=[handler])
    log.setLevel(logging.INFO)  # other libraries say what is worth a warning


def _require_locks() -> None:
    """Refuse Windows in one sentence."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise UserError(
            "this system has no flock, which guards run folders: Linux and macOS have; "
            "on Windows use its Linux, WSL"
        ) from None


def main() -> NoReturn:
    """Run the command line; a mistake of the user is one sentence and the code of its kind."""
    interrupted = _noting_interrupt()
    with guarded():
        _log_to_stderr()
        try:
            _require_locks()
            try:
                app()
            finally:
                sys.stdout.flush()
        except UserError as error:
            sentence = "\n".join(map(printable, str(error).splitlines()))
            Console(stderr=True).print(Text(f"fedred: {sentence}"), soft_wrap=True)
            sys.exit(error.exit_code)
        except Exception:
            if interrupted:  # libraries turn it into errors of their own while they load
                sys.exit(128 + signal.SIGINT)
            raise
        finally:
            sys.stderr.flush()
    sys.exit(0)
