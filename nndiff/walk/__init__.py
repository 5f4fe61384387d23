"""The parts that a walk from source or noise to target is made of, as a plan stores them. Nothing here loads torch."""
