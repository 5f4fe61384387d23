"""Networks: the UNet and its blocks, the PRDiT transformer, and the puzzle that reduces their memory and work."""
