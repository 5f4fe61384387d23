"""The resources of the machine and the cost of a step: devices, worker processes, predicted memory and work."""
