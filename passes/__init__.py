"""What may change a program, and why is that legal or cheaper?  One pass, one file."""
