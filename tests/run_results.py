"""Are two finished runs the same, byte for byte?"""

import json

from fedred.run_folder import RESULTS


def same_results(one, other):
    """Compare all files of two runs; only time and peak memory may differ."""
    for folder in (one, other):
        assert {path.name for path in folder.iterdir()} == {*RESULTS, "run.json"}
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    summaries = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    for summary in summaries:
        del summary["timings"], summary["memory"]["peak"]
    assert summaries[0] == summaries[1]
