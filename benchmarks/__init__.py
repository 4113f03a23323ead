"""How fast the service is on this machine, measured from outside: `python -m benchmarks`, or `make bench`."""
