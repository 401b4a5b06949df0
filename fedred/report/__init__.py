"""Tables and figures of finished runs: every number is read from the run folders."""
