"""Tuning of the sampler: from a trained fold and its held-out cases to inference.json.

It chooses the cheapest sampler whose score is as good as the best, within the uncertainty.

candidates.py   the samplers to try, in rounds; each round varies the best sampler so far
measure.py      the metrics and seconds of one sampler on some cases
search.py       rounds within a time budget, the choice, and the report on other cases
"""
