rule simulate:
    input:
        dataset=lambda wildcards: PLAN.dataset_file(PLAN.runs[wildcards.run]),
        partition=lambda wildcards: PLAN.partition_file(PLAN.runs[wildcards.run]),
        code=local(numeric_sources()),
    output:
        "results/runs/{run}/rounds.csv",
        "results/runs/{run}/clients.parquet",
        "results/runs/{run}/model.safetensors",
        summary="results/runs/{run}/run.json",
    log:
        "logs/simulate/{run}.log",
    benchmark:
        "benchmarks/snakemake/simulate/{run}.tsv"
    threads: 1
    resources:
        gpu=gpus_per_run(),
        mem_mb=6000,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        settings=lambda wildcards: as_text(PLAN.runs[wildcards.run]),
        folder=subpath(output.summary, parent=True),
    shell:
        "printf '%s' {params.settings:q} | fedred run - --out {params.folder}"
        " --dataset {input.dataset} --partition {input.partition}"
        " --threads {threads} > {log} 2>&1"
