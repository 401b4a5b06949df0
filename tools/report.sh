#!/usr/bin/env bash
# Write results/report.html when a table or figure is newer than it. Arguments go to Snakemake.
set -euo pipefail
report=results/report.html
if [ -e "$report" ] && [ -z "$(find results/tables results/figures -newer "$report" -print -quit)" ]; then
    exit 0
fi
snakemake --cores 1 --quiet all --report "$report" "$@"
