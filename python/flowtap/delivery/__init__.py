"""How copies get to who may have them: the tunnels that protect them on their way.

What decides does no I/O and reads no clock (``associations``, ``connection``, ``reasons``, ``states``); the
rest talks to the programs that do the work.
"""
