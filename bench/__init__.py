"""How chora compares with its peers, as ratios measured in one run. Never a test: these machines are noisy."""
