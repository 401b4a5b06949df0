# Record once, judge many times. A run's recorded updates are no outputs of `simulate`: most runs have none.
# No benchmark here: Snakemake refuses it in a rule whose result may come from a cache.


rule reconstruct:
    input:
        run="results/runs/{run}/run.json",
        code=local(offline_sources()),
    output:
        multiext(
            "results/reconstructions/{experiment}/{run}/round-{round}",
            errors=".parquet",
            images=".safetensors",
        ),
    log:
        "logs/reconstruct/{experiment}/{run}-{round}.log",
    cache: True
    threads: 1
    resources:
        gpu=gpus_per_run(),
        mem_mb=6000,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        updates=lambda wildcards, input: updates_of(input.run, wildcards.round),
        judge=lambda wildcards: as_text(PLAN.judges[wildcards.experiment]),
    shell:
        "fedred reconstruct {params.updates:q} --defense {params.judge:q} --out {output.errors}"
        " --images {output.images} --threads {threads} > {log} 2>&1"
