"""What the machine offers and what a step costs: devices, worker processes, predicted memory."""
