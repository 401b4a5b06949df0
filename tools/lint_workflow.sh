#!/usr/bin/env bash
# `snakemake --lint` exits with 0 whatever it finds: fail on what it prints.
set -euo pipefail
found=$(snakemake --lint 2>&1)
if ! grep -q "your workflow is in a good condition" <<<"$found"; then
    printf '%s\n' "$found"
    exit 1
fi
