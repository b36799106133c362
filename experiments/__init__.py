"""The experiments: each module here with a get_config() is one."""
