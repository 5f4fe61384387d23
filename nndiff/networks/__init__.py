"""Networks: blocks, the UNet, and the puzzle that lets them see a volume at a fraction of its cost."""
