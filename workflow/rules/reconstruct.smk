# Record once, judge many times. A run's recorded updates are no outputs of `simulate`: most runs have none.
# No cache: their content is in no key, since they are not there yet when Snakemake computes it.


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
    benchmark:
        "benchmarks/snakemake/reconstruct/{experiment}/{run}-{round}.tsv"
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
