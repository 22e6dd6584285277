"""The `weft` command: starts the whole system on one machine, and talks to one that runs."""
