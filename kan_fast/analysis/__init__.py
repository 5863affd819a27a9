"""What a network has learnt: curves of edges, scores, and smaller networks."""
