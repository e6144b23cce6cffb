"""Training: recipes, losses, the loop and what it writes."""
