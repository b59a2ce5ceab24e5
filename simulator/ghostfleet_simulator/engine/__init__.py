"""The step engine: a continuous-batching scheduler over paged blocks, and the timing of its steps.

Pure: it does no I/O, knows no clock and draws randomness only from generators it is given a seed for. Time is an
argument, in whole microseconds of whatever clock drives it.
"""
