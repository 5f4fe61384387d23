"""What an image is worth beside the truth: fidelity, texture, what a puzzle leaves behind, doses and samples."""
