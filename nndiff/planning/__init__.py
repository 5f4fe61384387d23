"""Planning: from a fingerprint and a budget to a plan, by pure rules that the planner applies in a fixed order."""
