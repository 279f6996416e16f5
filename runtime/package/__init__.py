"""How does a package run where no compiler is?  Archive, manifest, checks, steps, and the driver's own launch."""
