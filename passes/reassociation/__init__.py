"""The parts of `reassociate`: normal forms, contraction orders and their prices, facts about rows, prefix sums, writing."""
