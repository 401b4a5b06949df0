# No benchmark here: Snakemake refuses it in a rule whose result may come from a cache.


rule dataset:
    input:
        code=local(numeric_sources("datasets.py", "image_folder.py")),
        blocked=lambda wildcards: local(
            PLAN.before_reading_again(
                wildcards.dataset,
                made := rules.dataset.output[0].apply_wildcards(wildcards),
                workflow.persistence.params(made),
            )
        ),
    output:
        "results/datasets/{dataset}.safetensors",
    log:
        "logs/dataset/{dataset}.log",
    cache: True
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        settings=lambda wildcards: as_text(PLAN.datasets[wildcards.dataset]),
        content=lambda wildcards: PLAN.content(wildcards.dataset),
    shell:
        "fedred data {params.settings:q} --out {output} > {log} 2>&1"


# Snakemake deletes what a job is about to write. A finished data set whose files have changed and
# cannot be read depends on this rule, which fails before anything is deleted.
rule unreadable:
    output:
        f"results/datasets/{{dataset}}{UNREADABLE}",
    log:
        "logs/unreadable/{dataset}.log",
    localrule: True
    params:
        reason=lambda wildcards: PLAN.refusal(wildcards.dataset),
    shell:
        "echo fedred: {params.reason:q} > {log}; exit 2"


rule partition:
    input:
        dataset=lambda wildcards: PLAN.dataset_file(
            PLAN.partitions[wildcards.partition]
        ),
        code=local(numeric_sources("partition.py", "rng.py")),
    output:
        multiext(
            "results/partitions/{partition}", indices=".safetensors", picture=".png"
        ),
    log:
        "logs/partition/{partition}.log",
    cache: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        settings=lambda wildcards: as_text(
            PLAN.partitions[wildcards.partition]["partition"]
        ),
        seed=lambda wildcards: PLAN.partitions[wildcards.partition]["seed"],
    shell:
        "fedred partition {params.settings:q} --dataset {input.dataset}"
        " --seed {params.seed} --out {output.indices} > {log} 2>&1"
