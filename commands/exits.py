"""Exit statuses of the commands."""

FINE = 0
INCOMPLETE = (
    1  # it ran, and something that was asked for is missing: a kernel without a binary, a target without a tool
)
USAGE = 2  # the request is wrong: an argument, a file, a program that cannot be compiled
INTERNAL = 3  # a mistake in Fusecade
