"""Tests of mergesafe.recipe."""
