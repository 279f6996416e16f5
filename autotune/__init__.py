"""Which parameters?  The space of a kernel, the search through it, measurements, and the cache that keeps what was learnt."""
