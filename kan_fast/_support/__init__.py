"""Helpers of several folders that no user imports: checks of options, processes, files, text tables."""
