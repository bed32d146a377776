"""Feature maps into caches: where they come from, the plan, the work, the check of the cut."""
