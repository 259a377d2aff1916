"""Ways to content destinations: tunnels, and what keeps everything else from leaving."""
