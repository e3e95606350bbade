"""How good pictures of emoji are, by measures that know nothing of the networks that painted."""
