"""Implementations of the fused primitives; :mod:`mergesafe.ops.backends.registry` picks one."""
