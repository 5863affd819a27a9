"""`python -m kan_fast`."""

from kan_fast.cli import main

raise SystemExit(main())
