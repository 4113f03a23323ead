"""Stand-ins for NERSC's Superfacility API, JAWS Central and the `jaws` command: one process that really runs workflows.

Tests start it with `NerscSite` of `part.py`; by hand: `python -m test.stand_ins.nersc --help`.
"""
