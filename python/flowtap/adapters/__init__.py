"""Bridges to other capture libraries."""
