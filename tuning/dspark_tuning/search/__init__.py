"""Policy search in the simulator. Read in this order:

- ``space``: the parameters of a candidate and their ranges
- ``search``: Optuna trials in batches, with successive halving
- ``evaluation``: simulations of (arm, load, seed) cells, in one process or on many
- ``objectives``: values and scores of arms; a new objective is one entry there
- ``comparison``: paired comparison of arms with confidence intervals
- ``baselines``, ``own_flags``, ``named_arms``: the serving modes that a policy is compared with
- ``tune``: search, selection and report on disjoint seeds; ``artifact`` writes the result down
"""
