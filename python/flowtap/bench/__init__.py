"""Measuring flowtap on the machine that it runs on: traffic, what is measured, and how figures are told.

``flowtap bench`` is the command. The programs in the repository's ``bench`` directory, which put other
programs beside it, use the same traffic.
"""
