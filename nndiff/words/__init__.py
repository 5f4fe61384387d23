"""Words that every room shares: errors, files, JSON, paths, tables, volumes, datasets."""
