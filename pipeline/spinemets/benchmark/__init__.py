"""How fast a detection is on this machine, stage by stage, beside what users would otherwise use."""

from spinemets.benchmark.run import BenchmarkPlan, run_benchmark
from spinemets.benchmark.synthetic import CASES

__all__ = ["CASES", "BenchmarkPlan", "run_benchmark"]
