"""What the kernels' machine code needs: an audit of every configuration, for which no GPU is wanted."""
