"""The labelling page: a small web application on this machine. Nothing of it is loaded before it is served."""
