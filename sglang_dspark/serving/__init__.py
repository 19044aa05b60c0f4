"""The SGLang plugin that makes DSPARK follow a policy.

``hooks`` lists every place at which it enters SGLang; a further SGLang version is an entry of ``hooks.SUPPORTED`` once
``evidence.upstream_check`` and the tests agree, and a row of ``support`` or ``refusals`` for each new backend or flag.
"""
