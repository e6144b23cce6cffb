"""The throughput suite: `tox -e bench`. docs/performance.md says how to read what it measures.

Every figure is put beside two others that were taken in the same process, round by round: a literal program for the
same task (`literal`), and the time that its arithmetic alone would take (`floor`).
"""
