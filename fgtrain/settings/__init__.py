"""Every setting, without torch: the common ones, the methods, the recipes, config files."""
