"""Functions for single curves, `y ~ c f(a x + b) + d`, their chains, sums and products."""
