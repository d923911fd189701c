"""The commands of `pydet`, a file for each. Torch is imported only where there is work for it."""
