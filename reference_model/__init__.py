"""The reference model: weights in this folder, the recipe that made them in `recipe/`."""
