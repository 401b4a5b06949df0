"""Tables of made-up runs against numbers worked out here."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from run_folders import ATTACKS, DEFENSES, settings, write_grid, write_run
from scipy import stats

from fedred.errors import UserError
from fedred.report.differences import holm
from fedred.report.runs import Run, load_runs
from fedred.report.style import DISPLAY_NAMES, HIGHER_IS_BETTER
from fedred.report.tables import DETECTION, PERFORMANCE, TABLES, print_table, write_table

DASH = "\N{EN DASH}"
OF_DIGITS = [name for name in TABLES if name != "reference"]  # nobody published values for digits
REGISTRY_NAMES = {shown: name for name, shown in DISPLAY_NAMES.items()}


def accuracy_runs(root: Path, values: dict[str, float], attack: str = "mpaf") -> list[Run]:
    """One run a defense, with the given final accuracy."""
    return load_runs(
        write_run(root / name, settings(attack, name), {"accuracy": value}, selects=False)
        for name, value in values.items()
    )


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return load_runs(write_grid(tmp_path_factory.mktemp("runs"), seeds=(0, 1, 2)))


def select(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def markdown_tables(text: str) -> list[tuple[str, pd.DataFrame]]:
    """Read Markdown back: the title and the cells of each table."""
    tables = []
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title, _, *lines = part.strip().splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        tables.append((title, pd.DataFrame(rows[2:], columns=rows[0])))
    return tables


def number(cell: str) -> float:
    return np.nan if cell == DASH else float(cell.strip("*").split("±")[0])


def test_mean_deviation_and_interval_over_seeds(tmp_path: Path) -> None:
    values = [0.91, 0.93, 0.98, 0.90]
    runs = load_runs(
        write_run(tmp_path / str(seed), settings("mpaf", "median", seed), {"accuracy": value})
        for seed, value in enumerate(values)
    )
    row = select(TABLES["performance"](runs), metric="accuracy").iloc[0]
    percent = 100 * np.array(values)
    low, high = stats.t.interval(0.95, 3, loc=percent.mean(), scale=stats.sem(percent))
    assert row["mean"] == pytest.approx(93.0)
    assert row["std"] == pytest.approx(percent.std(ddof=1))
    assert row["ci95"] == pytest.approx((high - low) / 2)
    assert row["n"] == 4


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    runs = accuracy_runs(tmp_path, {"fedavg": 0.5})
    row = select(TABLES["performance"](runs), metric="accuracy").iloc[0]
    assert row["mean"] == 50
    assert row["n"] == 1
    assert np.isnan(row["std"])
    assert np.isnan(row["ci95"])


def test_undefined_values_are_left_out_of_the_mean(tmp_path: Path) -> None:
    rates = [0.1, None, 0.3]
    runs = load_runs(
        write_run(tmp_path / str(seed), settings("dba", "median", seed), final(rate))
        for seed, rate in enumerate(rates)
    )
    row = select(TABLES["performance"](runs), metric="attack_success_rate").iloc[0]
    assert row["mean"] == pytest.approx(20)
    assert row["n"] == 2


def final(rate: float | None) -> dict[str, float | None]:
    return {"attack_success_rate": rate}


def accuracies(root: Path, values: dict[str, list[float]], attack: str = "mpaf") -> list[Run]:
    """One run a defense and seed, with the given final accuracies."""
    return load_runs(
        write_run(root / f"{name}-{seed}", settings(attack, name, seed), {"accuracy": value})
        for name, seeds in values.items()
        for seed, value in enumerate(seeds)
    )


def test_titles_tell_the_number_of_seeds(grid: list[Run], tmp_path: Path) -> None:
    kept = [run for run in grid if run.settings["seed"] == 0 or "krum" not in run.name]
    titles = []
    for runs in (grid, kept, [run for run in grid if run.settings["seed"] == 0]):
        write_table(TABLES["detection"](runs), "detection", tmp_path / "table")
        titles += [title for title, _ in markdown_tables((tmp_path / "table.md").read_text())]
    told = ["n = 3 seeds", "n = 1 to 3 seeds", "n = 1 seed"]
    assert titles == [f"Digits: rates in %, AAR in rounds, {n}" for n in told]
    assert told[2] in (tmp_path / "table.tex").read_text()


def test_differences_are_paired_t_tests_against_fedavg(tmp_path: Path) -> None:
    values = {
        "fedavg": [0.50, 0.61, 0.55, 0.58],
        "median": [0.53, 0.66, 0.57, 0.64],
        "krum": [0.40, 0.70, 0.50, 0.52],
    }
    frame = TABLES["differences"](accuracies(tmp_path, values))
    assert list(frame["defense"]) == ["median", "krum"]
    assert list(frame["baseline"]) == ["fedavg"] * 2
    for row in frame.to_dict("records"):
        test = stats.ttest_rel(values[row["defense"]], values["fedavg"])
        low, high = test.confidence_interval(0.95)
        difference = 100 * (np.array(values[row["defense"]]) - values["fedavg"])
        assert row["mean"] == pytest.approx(difference.mean())
        assert row["std"] == pytest.approx(difference.std(ddof=1))
        assert row["ci95"] == pytest.approx(100 * (high - low) / 2)
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["n"] == 4
    # Holm: the smaller p counts twice.
    assert list(frame["p_holm"]) == pytest.approx([2 * frame["p"][0], frame["p"][1]])
    assert list(frame["significant"]) == [True, False]


def test_a_difference_that_the_correction_takes_back_is_not_marked(tmp_path: Path) -> None:
    once = {"fedavg": [0.50, 0.61, 0.55], "median": [0.55, 0.665, 0.58]}
    write = {"krum": once["median"], "median": once["median"], "fedavg": once["fedavg"]}
    for values, marked in ((once, True), (write, False)):
        folder = tmp_path / str(marked)
        frame = TABLES["differences"](accuracies(folder, values))
        assert (frame["p"] < 0.05).all()
        assert list(frame["significant"]) == [marked] * (len(values) - 1)
        write_table(frame, "differences", folder / "table")
        assert (r"\*" in (folder / "table.md").read_text()) == marked
        assert ("$^{*}$" in (folder / "table.tex").read_text()) == marked


def test_holm_follows_its_definition() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, np.nan, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1.0, 1.0])


def test_one_pair_of_seeds_has_no_interval_and_no_mark(tmp_path: Path) -> None:
    frame = TABLES["differences"](accuracies(tmp_path, {"fedavg": [0.5], "median": [0.75]}))
    assert not frame["significant"].any()
    assert frame["p"].isna().all()
    write_table(frame, "differences", tmp_path / "table")
    ((title, table),) = markdown_tables((tmp_path / "table.md").read_text())
    assert title == "Digits: Accuracy minus that of FedAvg (points), n = 1 pair"
    assert table.loc[0, "Median"] == f"25.00±{DASH}"
    assert r"25.00\,{\scriptsize$\pm$--}" in (tmp_path / "table.tex").read_text()


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_spread(shift: float, p: float, tmp_path: Path) -> None:
    values = {"fedavg": [0.5, 0.25], "median": [0.5 + shift, 0.25 + shift]}
    frame = TABLES["differences"](accuracies(tmp_path, values))
    assert list(frame["p"]) == [p]
    assert list(frame["significant"]) == [p == 0]


def test_only_seeds_of_both_are_paired(tmp_path: Path) -> None:
    values = {"fedavg": [0.50, 0.60, 0.90], "median": [0.60, 0.80]}
    (row,) = TABLES["differences"](accuracies(tmp_path, values)).to_dict("records")
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(15)


def test_differences_need_fedavg_beside_another_defense(tmp_path: Path) -> None:
    for number, values in enumerate(({"median": [0.5], "krum": [0.4]}, {"fedavg": [0.5]})):
        with pytest.raises(UserError, match="defended by fedavg and by another defense"):
            TABLES["differences"](accuracies(tmp_path / str(number), values))


def client_run(folder: Path, rows: list[tuple[int, bool, bool, float, int]], **changes: int) -> Run:
    """A run of two rounds with clients given as (round, malicious, participated, score, steps)."""
    made = settings("mpaf", "fedredefense", rounds=2, **changes)
    (run,) = load_runs([write_run(folder, made)])
    columns = ["round", "malicious", "participated", "score", "iterations"]
    run.__dict__["clients"] = pd.DataFrame(rows, columns=columns)
    return run


def test_errors_by_definition(tmp_path: Path) -> None:
    nan, inf = np.nan, np.inf
    first = [(1, False, True, 0.5, 10), (1, True, True, inf, 1), (1, True, True, 0.9, 40)]
    later = [(2, False, True, 0.3, 2), (2, True, False, 7.0, 9), (2, True, True, nan, 0)]
    other = [(1, False, True, 0.1, 3), (1, True, True, nan, 5)]
    runs = [client_run(tmp_path / "0", first + later), client_run(tmp_path / "1", other, seed=1)]
    honest, malicious = TABLES["errors"](runs).to_dict("records")
    assert (honest["clients"], malicious["clients"]) == ("honest", "malicious")
    assert honest["mean"] == pytest.approx(0.3)
    assert honest["std"] == pytest.approx(0.2)
    assert (honest["n"], honest["not_finite"], honest["seeds"]) == (3, 0, 2)
    assert malicious["mean"] == pytest.approx(0.9)
    assert np.isnan(malicious["std"])
    assert (malicious["n"], malicious["not_finite"], malicious["seeds"]) == (1, 2, 2)
    write_table(TABLES["errors"](runs), "errors", tmp_path / "table")
    ((title, table),) = markdown_tables((tmp_path / "table.md").read_text())
    assert title == "Digits: reconstruction errors, 2 seeds"
    assert list(table.iloc[0]) == ["MPAF", "Honest", "0.300", "0.200", "3", "0"]
    assert list(table.iloc[1]) == ["MPAF", "Malicious", "0.900", DASH, "1", "2"]


def test_errors_take_runs_of_fedredefense_only(grid: list[Run]) -> None:
    frame = TABLES["errors"](grid)
    assert set(frame["defense"]) == {"fedredefense"}
    pairs = list(zip(frame["attack"], frame["clients"], strict=True))
    assert ("none", "malicious") not in pairs
    assert len(pairs) == 2 * len(ATTACKS) - 1
    with pytest.raises(UserError, match="needs a run defended by fedredefense"):
        TABLES["errors"]([run for run in grid if "fedredefense" not in run.name])


def test_cost_by_definition(tmp_path: Path) -> None:
    # write_run notes 4 + 0.5 + 1.5 + 2 seconds; these runs have two rounds.
    runs = [
        client_run(
            tmp_path / "0",
            [
                (1, False, True, 0.5, 10),
                (1, True, False, 0.5, 99),
                (2, False, True, 0.5, 0),
                (2, True, True, 0.5, 20),
            ],
        ),
        client_run(tmp_path / "1", [(1, False, True, 0.5, 5), (2, False, True, 0.5, 5)], seed=1),
        *accuracies(tmp_path, {"median": [0.5]}),
    ]
    for run in runs[2:]:
        run.settings["rounds"] = 2
    frame = TABLES["cost"](runs)
    rows = frame.set_index(["defense", "metric"])
    seconds = ("training", "attack", "defense", "evaluation", "total")
    for defense, n in (("fedredefense", 2), ("median", 1)):
        means = [rows.loc[(defense, part), "mean"] for part in seconds]
        assert means == pytest.approx([2.0, 0.25, 0.75, 1.0, 4.0])
        assert [rows.loc[(defense, part), "n"] for part in seconds] == [n] * 5
    assert rows.loc[("fedredefense", "iterations"), "mean"] == pytest.approx((15 + 5) / 2)
    assert rows.loc[("fedredefense", "iterations"), "std"] == pytest.approx(np.sqrt(50))
    assert rows.loc[("median", "iterations"), "n"] == 0
    write_table(frame, "cost", tmp_path / "table")
    ((_, table),) = markdown_tables((tmp_path / "table.md").read_text())
    told = ["2.000", "0.250", "0.750", "1.000", "4.000"]
    equal = [f"{seconds}±0.000" for seconds in told]
    others = ["10.0±7.1", "300±0", "0.500±0.000", "2"]
    assert list(table.iloc[0]) == ["FedREDefense", *equal, *others]
    assert list(table.iloc[1]) == ["Median", *told, DASH, "300", "0.500", "1"]


@pytest.mark.parametrize("seconds", [None, "1", True, -1.0, [], 1e300])
def test_cost_without_seconds_is_refused(seconds: object, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings())
    content = json.loads((folder / "run.json").read_text())
    content["timings"]["defense"] = seconds
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"run\.json does not tell the seconds of its defense"):
        TABLES["cost"](load_runs([folder]))
    content["timings"]["defense"], content["memory"]["peak"] = 1.0, seconds
    (folder / "run.json").write_text(json.dumps(content))
    if seconds is not None:
        with pytest.raises(UserError, match=r"run\.json does not tell the bytes of its peak"):
            TABLES["cost"](load_runs([folder]))
    del content["memory"]
    (folder / "run.json").write_text(json.dumps(content))
    rows = TABLES["cost"](load_runs([folder])).set_index("metric")
    assert rows.loc["peak", "n"] == 0  # a run of a version that did not tell
    content["timings"] = 3
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="timings"):
        load_runs([folder])


def test_frame_holds_every_method_in_the_order_of_the_runs(grid: list[Run]) -> None:
    frame = TABLES["performance"](grid)
    expected = ["dataset", "attack", "defense", "metric", "mean", "std", "ci95", "n", "warnings"]
    assert list(frame.columns) == expected
    assert tuple(frame["attack"].unique()) == ATTACKS
    assert tuple(frame["defense"].unique()) == DEFENSES
    assert len(frame) == len(ATTACKS) * len(DEFENSES) * len(PERFORMANCE)


def test_order_of_seeds_does_not_matter(grid: list[Run]) -> None:
    backwards = [run for seed in (2, 1, 0) for run in grid if run.settings["seed"] == seed]
    pd.testing.assert_frame_equal(TABLES["performance"](grid), TABLES["performance"](backwards))


def test_detection_takes_selecting_runs_only(grid: list[Run]) -> None:
    frame = TABLES["detection"](grid)
    assert set(frame["defense"]) == {"krum", "fedredefense"}
    assert set(frame["metric"]) == set(DETECTION)
    flipped = select(frame, attack="label_flip", defense="fedredefense").set_index("metric")
    assert flipped.loc["AFNR", "mean"] == 100
    assert flipped.loc["AAR", "mean"] == 20
    assert flipped.loc["ADACC", "mean"] == 75
    peaceful = select(frame, attack="none", metric="FNR")
    assert peaceful["mean"].isna().all()
    assert (peaceful["n"] == 0).all()


def test_options_that_differ_become_labels(tmp_path: Path) -> None:
    made = [
        settings("scaling", "fedredefense"),
        settings("scaling", "fedredefense", attack__factor=10.0),
        settings("scaling", "fedredefense", defense__aggregator__name="median"),
        settings("mpaf", "fedavg"),
    ]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    frame = TABLES["performance"](runs)
    assert list(frame["attack"].unique()) == ["scaling (factor=3)", "scaling (factor=10)", "mpaf"]
    assert list(frame["defense"].unique()) == [
        "fedredefense (aggregator.name=mean)",
        "fedredefense (aggregator.name=median)",
        "fedavg",
    ]
    assert list(frame.columns[3:4]) == ["metric"]


def test_a_folder_of_images_is_always_told_by_its_folder(tmp_path: Path) -> None:
    images = {"dataset__name": "image_folder", "dataset__folder": "mine"}
    made = [settings(**images), settings(), settings("mpaf", **images)]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    frame = TABLES["performance"](runs)
    assert list(frame["dataset"].unique()) == ["image_folder (folder=mine)", "digits"]
    write_table(frame, "performance", tmp_path / "table")
    assert "Images (folder=mine): Accuracy" in (tmp_path / "table.md").read_text()


def test_other_settings_that_differ_become_columns(tmp_path: Path) -> None:
    made = [
        settings("mpaf", "median", seed, partition__alpha=alpha, training__lr=alpha / 10)
        for alpha in (0.1, 1.0)
        for seed in (0, 1)
    ]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    frame = TABLES["performance"](runs)
    assert list(frame.columns[3:6]) == ["partition.alpha", "training.lr", "metric"]
    assert list(select(frame, metric="accuracy")["n"]) == [2, 2]
    write_table(frame, "performance", tmp_path / "table")
    titles = [title for title, _ in markdown_tables((tmp_path / "table.md").read_text())]
    assert titles == [
        f"Digits, partition.alpha = {alpha:g}, training.lr = {alpha / 10:g}: "
        "Accuracy (%), n = 2 seeds"
        for alpha in (0.1, 1.0)
    ]


def test_sections_that_differ_by_name_become_one_column(tmp_path: Path) -> None:
    made = [
        settings(partition={"name": "iid", "clients": 20}),
        settings(partition={"name": "dirichlet", "clients": 20, "alpha": 0.1}),
        settings(partition={"name": "dirichlet", "clients": 20, "alpha": 1.0}),
    ]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    frame = select(TABLES["performance"](runs), metric="accuracy")
    assert list(frame["partition"]) == ["iid", "dirichlet (alpha=0.1)", "dirichlet (alpha=1)"]
    assert "partition.alpha" not in frame


def test_each_data_set_may_have_its_own_protocol(tmp_path: Path) -> None:
    made = [
        settings("mpaf", defense, dataset__name=name, training__lr=lr)
        for name, lr in (("digits", 0.1), ("cifar10", 0.001))
        for defense in ("fedavg", "krum")
    ]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    frame = TABLES["performance"](runs)
    assert list(frame["dataset"].unique()) == ["digits", "cifar10"]
    assert "training.lr" not in frame


def test_clean_baseline_shares_the_table_but_not_a_sweep_of_malicious(tmp_path: Path) -> None:
    made = [settings("none"), settings("mpaf")]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    assert "malicious" not in TABLES["performance"](runs)
    sweep = write_run(tmp_path / "sweep", settings("mpaf", malicious=2))
    frame = select(TABLES["performance"]([*runs, *load_runs([sweep])]), metric="accuracy")
    assert list(frame["malicious"]) == [0, 5, 2]


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    runs = load_runs(write_run(tmp_path / name, settings("mpaf")) for name in ("one", "two"))
    with pytest.raises(UserError, match=r"one and .*two have the same settings and seed"):
        TABLES["performance"](runs)


def test_best_is_bold_also_when_it_is_shared(tmp_path: Path) -> None:
    values = {"fedavg": 0.50001, "median": 0.93001, "krum": 0.4, "fedredefense": 0.92999}
    frame = TABLES["performance"](accuracy_runs(tmp_path, values))
    write_table(frame, "performance", tmp_path / "table")
    ((_, table),) = markdown_tables((tmp_path / "table.md").read_text())
    assert list(table.iloc[0]) == ["MPAF", "50.00", "**93.00**", "40.00", "**93.00**"]
    tex = (tmp_path / "table.tex").read_text()
    assert r"MPAF & 50.00 & \textbf{93.00} & 40.00 & \textbf{93.00} \\" in tex


def test_a_number_without_rival_is_not_bold(tmp_path: Path) -> None:
    frame = TABLES["performance"](accuracy_runs(tmp_path, {"fedavg": 0.9}))
    write_table(frame, "performance", tmp_path / "table")
    assert "**" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("metric", DETECTION)
def test_direction_of_detection_metrics(metric: str, tmp_path: Path) -> None:
    runs = load_runs(
        write_run(tmp_path / name, settings("mpaf", name), {metric: value})
        for name, value in (("krum", 0.2), ("fedredefense", 0.7))
    )
    write_table(TABLES["detection"](runs), "detection", tmp_path / "table")
    ((_, table),) = markdown_tables((tmp_path / "table.md").read_text())
    bold = [cell.startswith("**") for cell in table[metric]]
    assert bold == ([False, True] if HIGHER_IS_BETTER[metric] else [True, False])


def test_undefined_and_missing_cells_are_a_dash(tmp_path: Path) -> None:
    made = [settings("none", "krum"), settings("mpaf", "krum"), settings("mpaf", "fedredefense")]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    write_table(TABLES["performance"](runs), "performance", tmp_path / "performance")
    ((_, table),) = markdown_tables((tmp_path / "performance.md").read_text())
    assert table.loc[0, "FedREDefense"] == DASH
    write_table(TABLES["detection"](runs), "detection", tmp_path / "detection")
    ((_, table),) = markdown_tables((tmp_path / "detection.md").read_text())
    assert table.loc[0, "FNR"] == DASH
    assert " -- " in (tmp_path / "detection.tex").read_text()


def test_performance_markdown_says_what_the_csv_says(grid: list[Run], tmp_path: Path) -> None:
    write_table(TABLES["performance"](grid), "performance", tmp_path / "table")
    tidy = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values=[""])
    tables = markdown_tables((tmp_path / "table.md").read_text())
    metrics = [REGISTRY_NAMES[title.split(": ")[1].split(", n")[0]] for title, _ in tables]
    assert metrics == list(PERFORMANCE)
    told = 0
    for metric, (_, table) in zip(metrics, tables, strict=True):
        for attack, *cells in table.itertuples(index=False):
            for defense, cell in zip(table.columns[1:], cells, strict=True):
                names = {"attack": REGISTRY_NAMES[attack], "defense": REGISTRY_NAMES[defense]}
                (row,) = select(tidy, metric=metric, **names).to_dict("records")
                assert number(cell) == pytest.approx(row["mean"], abs=0.0051)
                assert float(cell.strip("*").split("±")[1]) == pytest.approx(
                    row["ci95"], abs=0.0051
                )
                told += 1
    assert told == tidy["mean"].notna().sum()


def test_detection_markdown_says_what_the_csv_says(grid: list[Run], tmp_path: Path) -> None:
    write_table(TABLES["detection"](grid), "detection", tmp_path / "table")
    tidy = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values=[""])
    ((_, table),) = markdown_tables((tmp_path / "table.md").read_text())
    assert len(table) * len(DETECTION) == len(tidy)
    for attack, defense, *cells in table.itertuples(index=False):
        names = {"attack": REGISTRY_NAMES[attack], "defense": REGISTRY_NAMES[defense]}
        means = [select(tidy, metric=metric, **names)["mean"].item() for metric in DETECTION]
        assert [number(cell) for cell in cells] == pytest.approx(means, abs=0.0051, nan_ok=True)


@pytest.mark.parametrize("name", OF_DIGITS)
def test_latex_is_balanced(name: str, grid: list[Run], tmp_path: Path) -> None:
    write_table(TABLES[name](grid), name, tmp_path / "table")
    text = (tmp_path / "table.tex").read_text()
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    for row in rows:
        spans = [int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        assert len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans) == len(columns)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.count(r"\begin") == text.count(r"\end") == 1
    assert text.isascii()


def test_latex_and_markdown_escape_names(tmp_path: Path) -> None:
    made = [
        settings("new_attack", "fedavg", dataset__name="my_data & 100%"),
        settings("new_attack", "fedavg", dataset__name="my_data & 100%", attack__mode="a|b"),
        settings("new_attack", "fedavg", dataset__name="my_data & 100%", attack__mode="#1"),
    ]
    runs = load_runs(write_run(tmp_path / str(i), one) for i, one in enumerate(made))
    write_table(TABLES["performance"](runs), "performance", tmp_path / "table")
    tex, md = (tmp_path / "table.tex").read_text(), (tmp_path / "table.md").read_text()
    assert r"\textit{my\_data \& 100\%: Accuracy (\%), n = 1 seed}" in tex
    assert r"new\_attack (mode=\#1)" in tex
    assert r"new\_attack (mode=a\|b)" in md
    assert not re.search(r"(?<!\\)_", tex.replace(r"\usepackage", ""))


@pytest.mark.parametrize("name", OF_DIGITS)
def test_written_twice_the_bytes_are_the_same(name: str, grid: list[Run], tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write_table(TABLES[name](grid), name, tmp_path / folder / "table.v1")
    written = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert written == ["table.v1.csv", "table.v1.html", "table.v1.md", "table.v1.tex"]
    for path in written:
        first, second = (tmp_path / folder / path for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", OF_DIGITS)
def test_terminal_is_plain_when_piped_and_fits(name: str, grid: list[Run]) -> None:
    frame, output = TABLES[name](grid), io.StringIO()
    print_table(frame, name, Console(file=output, width=100))
    text = output.getvalue()
    assert "\x1b" not in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    intervals = frame["ci95"].dropna() if "ci95" in frame else []
    assert len(re.findall(r"\d\.\d\d±", text)) == len(intervals)


def test_terminal_shows_the_title(tmp_path: Path) -> None:
    frame, output = TABLES["performance"](accuracy_runs(tmp_path, {"krum": 0.5})), io.StringIO()
    console = Console(file=output, width=100)
    print_table(frame, "performance", console, title="laptop [best]")
    assert output.getvalue().startswith("laptop [best] ")


def test_terminal_shows_the_best_in_bold(tmp_path: Path) -> None:
    runs = accuracy_runs(tmp_path, {"fedavg": 0.5, "median": 0.9})
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system="standard")
    print_table(TABLES["performance"](runs), "performance", console)
    assert re.search(r"\x1b\[1m *90\.00", output.getvalue())
    assert not re.search(r"\x1b\[1m *50\.00", output.getvalue())


@pytest.mark.parametrize("name", OF_DIGITS)
def test_no_runs_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="no runs"):
        TABLES[name]([])


def test_detection_without_selecting_defense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accepts or rejects"):
        TABLES["detection"](accuracy_runs(tmp_path, {"fedavg": 0.5}))


def test_unknown_table_is_refused(grid: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'detection'"):
        write_table(TABLES["detection"](grid), "detections", tmp_path / "table")


@pytest.mark.parametrize("content", [None, "", '{"run": "x"', "{}", "[]", '{"settings": 1}'])
def test_missing_or_torn_run_is_named(content: str | None, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings())
    path = folder / "run.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_runs([folder])


@pytest.mark.parametrize("name", ["rounds.csv", "clients.parquet"])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 0.99])
def test_missing_or_torn_files_are_named(name: str, share: float | None, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", settings())
    path = folder / name
    whole = path.read_bytes()
    path.unlink() if share is None else path.write_bytes(whole[: int(share * len(whole))])
    (run,) = load_runs([folder])
    with pytest.raises(UserError, match=re.escape(str(path))):
        _ = run.rounds if name == "rounds.csv" else run.clients


def test_lacking_metric_is_named(tmp_path: Path) -> None:
    (run,) = load_runs([write_run(tmp_path / "run", settings())])
    del run.final["accuracy"]
    with pytest.raises(UserError, match=r"run\.json has no final accuracy"):
        TABLES["performance"]([run])


HOSTILE = [
    "_a_",
    "[red]x[/red]",
    "a|b",
    r"c\|d",
    "<b>&lt;",
    "=1+1",
    "`x`",
    "**y**",
    "猫",
    "#1 #",
    "$x$",
]
"""Names of methods that come from the files of others."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("hostile")
    made = [settings(name, name, dataset__name=name, model__name=name) for name in HOSTILE]
    return TABLES["performance"](
        load_runs(write_run(root / str(place), one) for place, one in enumerate(made))
    )


class Cells(HTMLParser):
    """The texts of the cells of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in ("meta", "style", "table", "caption", "tr", "th", "td")
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_names_of_others_are_literal_in_every_format(hostile: pd.DataFrame, tmp_path: Path) -> None:
    write_table(hostile, "performance", tmp_path / "table")
    cells = {cell.strip() for cell in Cells((tmp_path / "table.html").read_text()).cells}
    assert set(HOSTILE) <= cells
    tokens = MarkdownIt("commonmark").enable("table").parse((tmp_path / "table.md").read_text())
    texts = ["".join(one.content for one in token.children or ()) for token in tokens]
    assert set(HOSTILE) <= set(texts)
    assert sum(token.type == "table_open" for token in tokens) == len(HOSTILE)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["attack"].removeprefix("'") for row in rows} == set(HOSTILE)
    assert not [cell for row in rows for cell in row.values() if cell.startswith("=")]
    output = io.StringIO()
    print_table(hostile, "performance", Console(file=output, width=300))
    printed = {cell for line in output.getvalue().splitlines() for cell in re.split(" {2,}", line)}
    assert set(HOSTILE) <= {cell.strip() for cell in printed}


def test_numbers_stay_numbers_in_the_csv(tmp_path: Path) -> None:
    values = {"fedavg": [0.9, 0.8], "median": [0.5, 0.6]}
    frame = TABLES["differences"](accuracies(tmp_path, values))
    write_table(frame, "differences", tmp_path / "table")
    read = pd.read_csv(tmp_path / "table.csv")
    assert read["mean"].dtype.kind in "if"
    np.testing.assert_allclose(read["mean"], frame["mean"])
    assert (read["mean"] < 0).all()


def test_wide_letters_fit_on_the_terminal(tmp_path: Path) -> None:
    names = [letter * 12 for letter in "猫犬鳥魚馬牛"]
    runs = accuracy_runs(tmp_path, dict.fromkeys(names, 0.5))
    output = io.StringIO()
    print_table(TABLES["performance"](runs), "performance", Console(file=output, width=80))
    text = output.getvalue()
    assert all(name in text for name in names)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
