from fedred.plan import as_text, gpus_per_run, workflow_plan
from fedred.provenance import numeric_sources, report_sources

PLAN = workflow_plan(config)


report: "../report/workflow.rst"


wildcard_constraints:
    dataset="|".join(PLAN.datasets),
    partition="|".join(PLAN.partitions),
    run="|".join(PLAN.runs),
    experiment="|".join(PLAN.experiments),
