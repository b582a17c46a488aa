"""The use cases: one function per thing that a person can ask for.

    core.py         the policy in force, how it changes, who waits for what; switches come and go here
    hypervisors.py  hypervisors, droplet ports, rules of one port
    droplets.py     droplets and tags
    external.py     external peers: what uids of load balancers and clusters stand for
    firewalls.py    firewalls
    access.py       tokens: who may do what

Functions take the `Core` first, then plain values, and return plain values; they raise `policy.errors`.  They know
nothing of HTTP, and nothing of OpenFlow beyond `Switch`, the three things that one can ask a connected switch.
"""
