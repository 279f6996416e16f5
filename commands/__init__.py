"""What does each command do?  One file a command; `cli.py` has the parser."""
