"""From a fingerprint and a budget to a plan: pure rules, and the ordered list that applies them."""
