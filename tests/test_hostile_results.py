"""Results from other people are data, never code; broken ones are refused in one sentence."""

import ast
import json
import os
import pickle
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from code_files import FORMS, Marks, as_code, obey
from command import fedred
from run_folders import settings, write_run

from fedred.errors import UserError
from fedred.report.figures import FIGURES
from fedred.report.runs import CLIENT_COLUMNS, ENTRIES, ROUND_COLUMNS, load_runs
from fedred.report.tables import TABLES

SOURCES = sorted([*Path("fedred").rglob("*.py"), *Path("benchmarks").glob("*.py")])
NOT_OF_THIS_RUN = ("differences", "partition", "reference", "sweep")
"""Tables and figures that one run of the digits cannot feed."""
OF_RUNS = [
    made
    for family in (TABLES, FIGURES)
    for name, made in family.items()
    if name not in NOT_OF_THIS_RUN
]
HOSTILE = [
    *(
        None,
        True,
        0,
        -1,
        1.5,
        1e308,
        2**63,
        10**400,
        "",
        "x",
        "\x1b[31m",
        "\n",
        [],
        [1],
        {},
        {"a": 1},
    ),
    *("\\input{/etc/passwd}", "<script>", "../../x", "x" * 10_000, [[[["x"]]]], {"": None}),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("made") / "run", settings("min_max", "fedredefense", rounds=3)
    )


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def report(folder):
    """Make every table and figure of a run."""
    for make in OF_RUNS:
        make(load_runs([folder]))


def refusal(folder, file):
    """Return the sentence with which a run is refused."""
    with pytest.raises(UserError) as refused:
        report(folder)
    sentence = str(refused.value)
    assert str(folder / file) in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return sentence


def test_the_run_is_reported_when_nothing_is_wrong(folder):
    report(folder)


# --- run.json ---

TEXTS = {
    "empty": b"",
    "nothing": b"null",
    "list": b"[]",
    "text": b'"run"',
    "number": b"3",
    "mapping": b"{}",
    "nan": b"NaN",
    "half": b'{"run": "x", "settings": {',
    "two": b"{}{}",
    "endless": b"[" * 100_000,
    "endless_mapping": b'{"a":' * 100_000,
    "digits": b"1" * 100_000,
    "latin1": b'{"run": "\xe9"}',
    "nul": b"\0" * 100,
    "pickle": pickle.dumps({"run": 1}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_summary_that_is_none_is_refused(name, folder):
    (folder / "run.json").write_bytes(TEXTS[name])
    refusal(folder, "run.json")


def set_entry(content, entry, value):
    *parents, last = entry.split(".")
    for key in parents:
        content = content[key]
    if value is KeyError:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_that_is_missing_or_of_another_type_is_refused(entry, folder):
    path = folder / "run.json"
    original = path.read_text()
    kind = ENTRIES[entry]
    for value in (KeyError, *HOSTILE):
        if type(value) is kind and (kind is not str or value.isprintable()):
            continue
        content = json.loads(original)
        set_entry(content, entry, value)
        path.write_text(json.dumps(content))
        refusal(folder, "run.json")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"x"', "[]", "true"])
def test_a_final_metric_that_is_no_number_is_refused(value, folder):
    path = folder / "run.json"
    content = json.loads(path.read_text())
    content["final"]["accuracy"] = "here"
    path.write_text(json.dumps(content).replace('"here"', value))
    refusal(folder, "run.json")


def entries(content, prefix=()):
    for key, value in content.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from entries(value, (*prefix, key))


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_any_value_anywhere_in_a_summary_is_reported_or_refused(value, folder):
    path = folder / "run.json"
    original = path.read_text()
    for place in entries(json.loads(original)):
        content = json.loads(original)
        set_entry(content, ".".join(place), value)
        path.write_text(json.dumps(content))
        try:
            (run,) = load_runs([folder])
            TABLES["performance"]([run])
            TABLES["detection"]([run])
        except UserError as error:
            assert str(error).isprintable()  # noqa: PT017 (either is right)


# --- rounds.csv and clients.parquet ---


def changed_csv(change):
    def spoil(path):
        change(pd.read_csv(path)).to_csv(path, index=False)

    return spoil


def written(content):
    return lambda path: path.write_bytes(content)


BAD_ROUNDS = {
    "empty": written(b""),
    "header_alone": changed_csv(lambda f: f[:0]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "too_few": changed_csv(lambda f: f[:-1]),
    "too_many": changed_csv(lambda f: pd.concat([f, f])),
    "binary": written(os.urandom(1000) + b"\n"),
    "nul": written(b"\0" * 1000 + b"\n"),
    "quotes": written(b'round,"accuracy\n1,2\n'),
    "ragged": written(b"round,accuracy\n1\n1,2,3,4\n1,2\n"),
    "pickle": written(pickle.dumps([1])),
    **{f"without_{c}": changed_csv(lambda f, c=c: f.drop(columns=c)) for c in ROUND_COLUMNS},
    **{
        f"text_in_{c}": changed_csv(lambda f, c=c: f.assign(**{c: "=cmd()"})) for c in ROUND_COLUMNS
    },
    "dates": changed_csv(lambda f: f.assign(accuracy="2020-01-01")),
    "truth": changed_csv(lambda f: f.assign(accuracy=True)),
    "huge_text": changed_csv(lambda f: f.assign(accuracy="9" * 10_000)),
}


@pytest.mark.parametrize("name", BAD_ROUNDS)
def test_bad_rounds_are_refused(name, folder):
    BAD_ROUNDS[name](folder / "rounds.csv")
    refusal(folder, "rounds.csv")


class Extension(pa.ExtensionType):
    """A type that a reader does not know; older PyArrow made such types from a pickle."""

    def __init__(self):
        super().__init__(pa.int64(), "fedred.tests.unknown")

    def __arrow_ext_serialize__(self):
        return pickle.dumps("executed")

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type, serialized):
        return cls()


def with_column(name, array):
    def spoil(path):
        table = pq.read_table(path)
        index = table.column_names.index(name)
        column = array(table.num_rows)
        pq.write_table(table.set_column(index, name, column), path)

    return spoil


def changed_clients(change):
    def spoil(path):
        change(pd.read_parquet(path)).to_parquet(path, index=False)

    return spoil


BAD_CLIENTS = {
    "empty": written(b""),
    "magic": written(b"PAR1PAR1"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "last_byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "middle_lost": lambda path: path.write_bytes(b"PAR1" + path.read_bytes()[-2000:]),
    "footer_of_gigabytes": lambda path: path.write_bytes(
        path.read_bytes()[:-8] + b"\xff" * 4 + b"PAR1"
    ),
    "csv": written(b"round,client\n1,2\n"),
    "pickle": written(pickle.dumps([1])),
    "too_few": changed_clients(lambda f: f[:-1]),
    **{f"without_{c}": changed_clients(lambda f, c=c: f.drop(columns=c)) for c in CLIENT_COLUMNS},
    **{
        f"text_in_{c}": changed_clients(lambda f, c=c: f.assign(**{c: "x"})) for c in CLIENT_COLUMNS
    },
    **{
        f"null_in_{c}": changed_clients(lambda f, c=c: f.assign(**{c: None}))
        for c in CLIENT_COLUMNS
    },
    "lists": with_column("score", lambda n: pa.array([[1.0]] * n)),
    "mappings": with_column("score", lambda n: pa.array([{"a": 1.0}] * n)),
    "bytes": with_column("score", lambda n: pa.array([pickle.dumps(1)] * n)),
    "dates": with_column("round", lambda n: pa.array([1] * n, pa.timestamp("ns"))),
    "extension": with_column(
        "client",
        lambda n: pa.ExtensionArray.from_storage(
            Extension(), pa.array(["x"] * n).dictionary_encode().indices.cast(pa.int64())
        ),
    ),
    "numbers_in_malicious": changed_clients(lambda f: f.assign(malicious=2)),
}


@pytest.mark.parametrize("name", [n for n in BAD_CLIENTS if n != "extension"])
def test_bad_clients_are_refused(name, folder):
    BAD_CLIENTS[name](folder / "clients.parquet")
    refusal(folder, "clients.parquet")


def test_a_column_of_an_unknown_type_is_read_as_the_numbers_that_it_holds(folder):
    """The type is not looked up: its bytes, here a pickle, are never loaded."""
    path = folder / "clients.parquet"
    table = pq.read_table(path)
    column = pa.ExtensionArray.from_storage(
        Extension(), table["client"].combine_chunks().cast(pa.int64())
    )
    index = table.column_names.index("client")
    pq.write_table(table.set_column(index, "client", column), path)
    report(folder)
    (read,) = load_runs([folder])
    assert read.clients["client"].tolist() == table["client"].to_pylist()


def test_what_pandas_notes_in_a_parquet_file_is_not_obeyed(folder):
    """The notes may rename columns, make an index or name types; ours are read without them."""
    path = folder / "clients.parquet"
    table = pq.read_table(path)
    notes = json.loads(table.schema.metadata[b"pandas"])
    notes["index_columns"] = ["score", "client"]
    for column in notes["columns"]:
        column |= {"pandas_type": "object", "numpy_type": "object"}
    for content in (json.dumps(notes).encode(), b"{", pickle.dumps(Marks("executed")), b"[" * 9999):
        pq.write_table(table.replace_schema_metadata({b"pandas": content}), path)
        report(folder)
    assert not Path("executed").exists()


# --- code in place of results ---


@pytest.mark.parametrize("form", FORMS)
def test_the_files_of_code_do_harm_when_they_are_obeyed(form, tmp_path):
    """Else the tests below could not fail."""
    path, marker = tmp_path / "file", tmp_path / "executed"
    as_code(form, path, marker)
    obey(form, path)
    assert marker.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", ["run.json", "rounds.csv", "clients.parquet"])
def test_code_in_place_of_a_result_is_refused_and_not_run(file, form, folder, tmp_path):
    as_code(form, folder / file, tmp_path / "executed")
    refusal(folder, file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", FORMS)
def test_code_in_place_of_a_partition_is_refused_and_not_run(form, tmp_path):
    path = tmp_path / "partition"
    as_code(form, path, tmp_path / "executed")
    with pytest.raises(UserError, match=str(path)):
        FIGURES["partition"](path)
    assert not (tmp_path / "executed").exists()


# --- what the package never does ---

FORBIDDEN_MODULES = {
    *(
        "pickle",
        "cPickle",
        "_pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "jsonpickle",
    ),
}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    *(
        "torch.load",
        "torch.jit.load",
        "torch.hub.load",
        "pd.read_pickle",
        "yaml.load",
        "yaml.load_all",
    ),
    *("yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "np.fromregex", "pd.eval"),
}


def faults(source):
    """Yield what a module does that could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in FORBIDDEN_MODULES
        ):
            yield str(node.module)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        if called in FORBIDDEN_CALLS or called in FORBIDDEN_NAMES:
            yield called
        if called == "np.load" and options.get("allow_pickle") != "False":
            yield called
        if "shell" in options or options.get("weights_only") == "False":
            yield called


FAULTY = [
    *("import pickle", "from pickle import loads", "import joblib.numpy_pickle", "eval('1')"),
    *(
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
    ),
    *("subprocess.run(text, shell=True)", "exec(text)", "load(path, weights_only=False)"),
]


@pytest.mark.parametrize("source", FAULTY)
def test_the_scan_sees_what_it_looks_for(source):
    assert list(faults(source))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_module_can_run_what_it_reads(path):
    assert not list(faults(path.read_text(encoding="utf-8")))


def test_pickles_of_cifar10_alone_are_read_and_after_their_checksums():
    """torchvision unpickles them: `CIFAR10.load` is the one place, after the published MD5 sums."""
    readers = [
        (path.name, node.name)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "datasets.CIFAR10(" in ast.unparse(node)
    ]
    assert readers == [("datasets.py", "load")]
    (load,) = (
        node
        for node in ast.walk(ast.parse(Path("fedred/datasets.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and "datasets.CIFAR10(" in ast.unparse(node)
    )
    text = ast.unparse(load)
    assert text.index("_check_cifar10(root)") < text.index("train=train")


# --- the command line ---


@pytest.mark.slow
def test_the_command_refuses_bad_results_and_writes_nothing(folder, tmp_path):
    as_code("torch", folder / "clients.parquet", tmp_path / "executed")
    (folder / "rounds.csv").write_bytes(b"")
    for arguments, name in (
        (["figure", "reconstruction_error", folder, "--out", "o"], "clients.parquet"),
        (["figure", "accuracy_over_rounds", folder, "--out", "o"], "rounds.csv"),
        (["figure", "partition", folder / "clients.parquet", "--out", "o"], "clients.parquet"),
    ):
        refused = fedred(*arguments, cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert name in refused.stderr
        assert "Traceback" not in refused.stderr
        assert refused.stderr.count("\n") == 1
    (folder / "run.json").write_text("[]")
    refused = fedred("table", "performance", folder, "--out", "o", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
