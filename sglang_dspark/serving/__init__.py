"""The live side: an SGLang plugin that makes DSPARK follow a policy, and the CPU engine that its tests run on."""
