"""Ids of n-grams over events: on the host, in batches, and over the features of other jobs."""
