"""Notices: a watcher on each machine that hears when the machine is to go, and drains its node.

It imports the standard library and `vesselflow.errors` alone, and stays at a few MB; Ray is called
in a process of its own, for the second that it is needed.
"""
