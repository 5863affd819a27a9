"""What several rooms need and no user imports: checks of options, processes, files, text tables."""
