"""The half of a measurement that runs inside the sandbox, beside the code that is measured.

One process of this folder (the "zygote") is one side, base or head. It imports the package and the benchmark modules
once and forks a child for every benchmark case that it is asked to open; the child answers with seconds. It speaks JSON
lines on the standard input and output it was started with. Here belong ASV's conventions (set-up, caches, parameters,
fresh interpreters) and clocks. Not here: which case runs, how often, for how long, and what the seconds mean; that is
the host's matter (`side`, `lockstep`, `protocol`).

It runs on Python 3.8 and later with nothing but the standard library and asv_runner 0.3.2, as
`python -B FOLDER CONFIG`, CONFIG being the JSON of `side.HarnessConfig`. Its modules know each other by relative
imports alone, since nobody knows which names foreign code takes.
"""
