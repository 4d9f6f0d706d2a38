"""Comparing methods: how close what they predict is to each other and to experiment."""
