"""The demo: simulated PET scans in the dataset format, and the table and figure of its results."""
