"""How does it run?  Load a printed kernel, launch it, keep what was generated for the next process."""
