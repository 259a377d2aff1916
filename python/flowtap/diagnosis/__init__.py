"""What an operator asks when something does not work: echoes through a tunnel, and checks of this host."""
