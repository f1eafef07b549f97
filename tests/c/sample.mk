# What systems with fewer words than Linux need: clocks from counters, the
# kernel's own count, discovery without FDSize.
WARD += core/sample core/pace
