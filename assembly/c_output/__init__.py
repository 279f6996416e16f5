"""How does a package become C?  A header, a source with the kernels in it, an example, and a build file."""
