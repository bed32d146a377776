"""Plans of shards as tasks, and the engines that run them."""
