rule table:
    input:
        sources=lambda wildcards: PLAN.sources(wildcards.experiment, wildcards.table),
        code=local(report_sources()),
    output:
        report(
            f"{PLAN.shown}/tables/{{experiment}}-{{table}}.html",
            caption="../report/table.rst",
            category=lambda wildcards: in_words(wildcards.experiment),
            subcategory="Tables",
            labels=lambda wildcards: {"table": in_words(wildcards.table)},
        ),
        multiext(f"{PLAN.shown}/tables/{{experiment}}-{{table}}", ".csv", ".md", ".tex"),
    log:
        "logs/table/{experiment}-{table}.log",
    benchmark:
        "benchmarks/snakemake/table/{experiment}-{table}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        sources=lambda wildcards, input: as_arguments(input.sources),
        prefix=subpath(output[0], strip_suffix=".html"),
        described=lambda wildcards: in_rst(PLAN.described(wildcards.experiment)),
        offline=lambda wildcards: wildcards.table in JUDGED_OFFLINE,
    shell:
        "fedred table {wildcards.table} {params.sources} --out {params.prefix} > {log} 2>&1"


rule figure:
    input:
        sources=lambda wildcards: PLAN.sources(wildcards.experiment, wildcards.figure),
        code=local(report_sources()),
    output:
        report(
            f"{PLAN.shown}/figures/{{experiment}}-{{figure}}.png",
            caption="../report/figure.rst",
            category=lambda wildcards: in_words(wildcards.experiment),
            subcategory="Figures",
            labels=lambda wildcards: {"figure": in_words(wildcards.figure)},
        ),
        f"{PLAN.shown}/figures/{{experiment}}-{{figure}}.pdf",
    log:
        "logs/figure/{experiment}-{figure}.log",
    benchmark:
        "benchmarks/snakemake/figure/{experiment}-{figure}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        sources=lambda wildcards, input: as_arguments(input.sources),
        prefix=subpath(output[0], strip_suffix=".png"),
        described=lambda wildcards: in_rst(PLAN.described(wildcards.experiment)),
    shell:
        "fedred figure {wildcards.figure} {params.sources} --out {params.prefix} > {log} 2>&1"
