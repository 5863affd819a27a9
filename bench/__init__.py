"""Speed and memory against torch and other KAN libraries: `python -m bench`, or `pytest bench` for pytest-benchmark."""
