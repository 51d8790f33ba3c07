"""The evidence: which estimator wins, measured. Variance at a point, learning curves at equal compute, time and memory.

A study is a list of jobs. A job is defined by its settings alone, its result is one line of a JSON Lines file under the hash of
those settings, and a study that is interrupted goes on with the jobs that have no line yet.

It is installed with the rest, so that whoever has `rlr` can check its evidence; only `rlr bench` imports it, and it needs no
package that a run does not.
"""
