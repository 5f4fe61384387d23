"""One thin file a command: parse, call one stage, print."""
