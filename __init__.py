"""Fusecade: a compiler for fused memory-bound operations."""
