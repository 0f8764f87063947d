"""All merge methods on the demo's three experts: skill, refusals, over-refusal, cost."""
