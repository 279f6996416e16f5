"""What is a program?  The dialects, extents, access maps, targets and the reference interpreter."""
