"""From raw cases to prepared cases: integrity checks, statistics, fingerprint, preparation."""
