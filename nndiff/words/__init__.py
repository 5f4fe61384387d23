"""Types and functions that every other folder uses: errors, files, JSON, paths, tables, volumes, datasets."""
