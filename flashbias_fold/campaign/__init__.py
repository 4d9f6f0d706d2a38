"""Campaigns: thousands of jobs on many devices and machines, with Ray."""
