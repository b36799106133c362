"""Which experiments are made for which pods."""

# Experiment -> topology, slices.
PODS: dict[str, tuple[str, int]] = {
  "mocha_30b": ("v5p-1024", 1),
  "mocha_30b_v5p_2048": ("v5p-2048", 1),
  "mocha_30b_v6e_256x4": ("v6e-256", 4),
  "mocha_30b_heads_256": ("v6e-256", 4),
  "mocha_30b_tpu7x": ("tpu7x-512", 1),
  "mocha_4b": ("v5e-256", 1),
  "mocha_4b_v6e_64": ("v6e-64", 1),
  "mocha_4b_heads_256": ("v6e-64", 1),
  "mocha_wan_1_3b": ("v5e-64", 1),
  "mocha_wan_14b": ("v5p-256", 1),
}
