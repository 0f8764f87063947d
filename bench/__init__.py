"""Benchmarks: kernels against the memory rate, whole merges against mergekit and against cat."""
