"""How good pictures are.

`cases`, `judge`, `looks` and `figures` measure those of emoji, by means that know nothing of the
networks that painted. The rest measures any pictures against others or against their prompts, in
the features of published networks.
"""
