"""How a person starts it: the command line, sweeps, Hydra's set-up."""
