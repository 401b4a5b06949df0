"""Keep a finished study: the small files from which its tables and figures are made again in seconds."""

import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedred.errors import UserError
from fedred.files import folder_written_whole
from fedred.paths import require_outputs
from fedred.plan import JUDGED_OFFLINE, Plan, make_plan
from fedred.provenance import cores, cpu_model
from fedred.report.costs import PARTS
from fedred.report.runs import Run, load_runs
from fedred.run_folder import write_json
from fedred.yaml_reading import read_yaml, written_yaml

KEPT = ("run.json", "rounds.csv", "clients.parquet")
CONFIGURATION = "study.yaml"
ABOUT = "study.json"


def publish(config: Path, name: str, results: Path, machine: str | None = None) -> Path:
    """Copy what tables and figures of a finished configuration need into a folder of its own.

    Beside the files of the runs stand `study.yaml`, the configuration that reads them there, and
    `study.json`, which tells machine, versions, dates and seconds.

    Args:
        config: file of the configuration.
        name: of the study: small letters, digits, underscores.
        results: folder of the results; the study is written to `published/NAME` in it.
        machine: in words; by default the one that runs this.

    Returns:
        The folder of the study.

    Raises:
        UserError: when a file is missing or torn, when there is a study of that name, or when the
            configuration is itself that of a published study.
        WriteError: when the study cannot be written.
    """
    raw = read_yaml(config)
    plan = replace(make_plan(raw), results=str(results))
    if plan.published:
        raise UserError(f"{config} shows the published study '{plan.published}' already")
    renamed = {"published": name, **{key: raw[key] for key in raw if key != "published"}}
    study = replace(make_plan(renamed), results=str(results))
    folder = Path(study.finished)
    if folder.exists():
        raise UserError(f"{folder} exists: remove it first, or choose another name")
    require_outputs([folder / ABOUT])
    runs = _finished_runs(plan)
    about = _about(runs, machine or f"{cpu_model()}, {cores()} cores, {platform.system()}")
    with folder_written_whole(folder) as temporary:
        for source, target in zip(_sources(plan), _sources(study), strict=True):
            copy = temporary / target.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        (temporary / CONFIGURATION).write_text(written_yaml(renamed), encoding="utf-8")
        write_json(temporary / ABOUT, about)
    return folder


def _finished_runs(plan: Plan) -> list[Run]:
    wanted = list(_sources(plan))
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        told = f"{len(missing)} of {len(wanted)} files are missing, for instance {missing[0]}"
        raise UserError(f"{told}: has the workflow run to its end?")
    runs = load_runs(Path(f"{plan.finished}/runs/{run}") for run in plan.runs)
    for run in runs:
        run.rounds, run.clients  # noqa: B018 (checked as they are read)
    _read_what_is_no_run(plan)
    return runs


def _read_what_is_no_run(plan: Plan) -> None:
    from fedred.report.images import load_images
    from fedred.report.judged import load_judged
    from fedred.report.partition_figure import read_partition

    for experiment, tables in plan.tables.items():
        for shown in (*tables, *plan.figures[experiment]):
            sources = [Path(source) for source in plan.sources(experiment, shown)]
            if shown == "partition":
                read_partition(sources[0])
            elif shown == "images":
                load_images(sources)
            elif shown in JUDGED_OFFLINE:
                load_judged(sources)


def _sources(plan: Plan) -> Iterator[Path]:
    """Yield each file once that tables and figures are made from, in the order of the plan."""
    wanted = [f"{plan.finished}/runs/{run}/{name}" for run in plan.runs for name in KEPT]
    for experiment in plan.experiments:
        for shown in (*plan.tables[experiment], *plan.figures[experiment]):
            wanted += plan.sources(experiment, shown)
    yield from map(Path, dict.fromkeys(wanted))


def _about(runs: list[Run], machine: str) -> dict[str, Any]:
    summaries = [json.loads((run.folder / "run.json").read_bytes()) for run in runs]
    versions = [json.dumps(summary.get("versions", {}), sort_keys=True) for summary in summaries]
    changed = [(run.folder / "run.json").stat().st_mtime for run in runs]
    return {
        "machine": machine,
        "runs": len(runs),
        "computed": list(dict.fromkeys(summary.get("computed") for summary in summaries)),
        "versions": [json.loads(text) for text in dict.fromkeys(versions)],
        "first_run": _day(min(changed)),
        "last_run": _day(max(changed)),
        "seconds_of_rounds": round(sum(map(_seconds, runs))),
    }


def _seconds(run: Run) -> float:
    return len(run.rounds) * sum(map(run.seconds_per_round, PARTS))


def _day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()
