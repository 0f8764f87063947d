"""MergeAlign beside interpolation, SLERP, a tuned merge, and DPO and ORPO training."""
