rule table:
    input:
        lambda wildcards: PLAN.source_files(wildcards.experiment, wildcards.table),
        code=report_sources(),
    output:
        report(
            multiext("results/tables/{experiment}-{table}", ".csv", ".md", ".tex"),
            caption="../report/table.rst",
            category="{experiment}",
            subcategory="tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/table/{experiment}-{table}.log",
    benchmark:
        "benchmarks/snakemake/table/{experiment}-{table}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        runs=lambda wildcards: PLAN.run_folders(wildcards.experiment),
        prefix="results/tables/{experiment}-{table}",
    shell:
        "fedred table {wildcards.table} {params.runs} --out {params.prefix} > {log} 2>&1"


rule figure:
    input:
        lambda wildcards: PLAN.source_files(wildcards.experiment, wildcards.figure),
        code=report_sources(),
    output:
        report(
            "results/figures/{experiment}-{figure}.png",
            caption="../report/figure.rst",
            category="{experiment}",
            subcategory="figures",
            labels={"figure": "{figure}"},
        ),
        "results/figures/{experiment}-{figure}.pdf",
    log:
        "logs/figure/{experiment}-{figure}.log",
    benchmark:
        "benchmarks/snakemake/figure/{experiment}-{figure}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        sources=lambda wildcards: PLAN.figure_sources(
            wildcards.experiment, wildcards.figure
        ),
        prefix="results/figures/{experiment}-{figure}",
    shell:
        "fedred figure {wildcards.figure} {params.sources} --out {params.prefix} > {log} 2>&1"
