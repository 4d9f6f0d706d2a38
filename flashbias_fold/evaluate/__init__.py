"""Structures judged by their atoms alone: structures in, numbers and words out."""
