"""A trained fold and its held-out cases → inference.json: the cheapest sampler that is as good as any.

candidates.py   what is tried, in rounds: each begins from the best so far
measure.py      one sampler on some cases: figures and seconds
search.py       rounds within a budget of time; the choice; the report on cases that did not choose
"""
