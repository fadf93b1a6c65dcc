"""How fast an engine serves, and what memory it takes, for several attention backends side by side."""
