"""How is a scheduled program printed?  Triton source for GPUs, torch tile source for the CPU."""
