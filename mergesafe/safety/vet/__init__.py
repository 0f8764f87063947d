"""Audits parents before a merge: their files, their weights, what they do."""
