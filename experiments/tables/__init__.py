"""Tables 1-6 of DSRNA (CVPR 2021) as commands: what runs, how it is spread over processes, and how it is reported."""
