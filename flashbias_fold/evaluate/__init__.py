"""What can be said of structures by their atoms alone: structures in, numbers and words out."""
