"""What a cell's own process computes: a module each, with `figures(config, inputs, work_dir)`."""
