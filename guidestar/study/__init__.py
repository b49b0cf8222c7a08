"""Many runs as one command: the experiments of the papers, their figures and probes."""
