"""`KAN.fit`: its options, loop, objective, grids and checkpoints."""
