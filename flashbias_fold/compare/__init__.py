"""Comparing methods: how close what they predict is to each other and to experiment, and how fast.

`run` tells the story; `structures`, `matching`, `parts` and `statistics` know nothing of predictions.
"""
