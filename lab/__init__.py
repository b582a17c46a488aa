"""A small cloud on one machine: real Open vSwitch, real packets, and nothing left behind.

system.py      commands, processes and network namespaces; knows nothing of switches
ovs.py         `PrivateOvs`, one Open vSwitch of its own for each hypervisor
network.py     `Lab`, which builds hypervisors, virtual machines and the links between, and removes them
machine.py     `Machine`, one namespace that stands for a virtual machine, and the line to its agent
agent.py       the program inside each machine: sends, answers, listens, captures
truth.py       who reaches whom, probed, and printed beside what was expected
leftovers.py   removes what a killed lab left behind
streams.py     packets and sessions that never pause, and the account of what was lost
traffic.py     `Traffic`, the thread that sends and receives them; new connections; forbidden packets
probes.py      forbidden packets of every kind
snoop.py       counts flow-mods on the management network
rig.py         two hypervisors under such traffic, and the figures of one fault
faults.py      what breaks;  figures.py runs it, prints the table and writes docs/faults.md
postgresql.py  a PostgreSQL server that can be killed
sandbox.py     runs a program, such as Mininet, that thinks the whole machine is its own
controller.py  `Controller`, the firewall as a process that can be stopped and killed; and a REST client

Needs root, iproute2 and Open vSwitch.  Uses the standard library alone, and none of `firewall_app`.
"""
