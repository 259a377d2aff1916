"""Where copies go, and the protected paths that they take."""
