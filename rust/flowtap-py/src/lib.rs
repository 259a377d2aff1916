//! Python bindings: convert, detach, map errors; decide nothing.
