"""Raw cases in, prepared cases out: checks, statistics, fingerprint, preparation."""
