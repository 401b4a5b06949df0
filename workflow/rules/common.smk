from fedred.plan import (
    JUDGED_OFFLINE,
    UNREADABLE,
    as_arguments,
    as_text,
    gpus_per_run,
    in_words,
    updates_of,
    workflow_plan,
)
from fedred.provenance import numeric_sources, offline_sources, report_sources
from fedred.report.escapes import in_rst

PLAN = workflow_plan(workflow, config)


report: "../report/workflow.rst"


# Ids of runs and partitions are not listed: with thousands, Snakemake would read the list for each file.
wildcard_constraints:
    dataset="|".join(PLAN.datasets),
    partition="[^/]+",
    run="[^/]+",
    round="[0-9]+",
    experiment="|".join(PLAN.experiments),
