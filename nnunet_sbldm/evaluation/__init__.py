"""``sbldm_evaluate``: synthetic cases beside held-out real ones, with a real-against-real floor for every number."""
