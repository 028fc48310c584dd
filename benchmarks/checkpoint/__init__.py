"""Checkpoints while training goes on: what they cost, and whether a long run stays as it is."""
