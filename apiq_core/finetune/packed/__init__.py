"""A model whose weights stay packed integers while something is trained around them."""
