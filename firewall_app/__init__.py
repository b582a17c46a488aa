"""A cloud firewall for hypervisors that switch with Open vSwitch.

policy/    what people want and what it means      (pure)
pipeline/  the flows that a policy becomes         (pure)
openflow/  the conversation with switches
store/     what is remembered
api/       the conversation with people
service.py one function per thing that a person can ask for
app.py     the Ryu application: wires the above together, decides nothing
"""

__version__ = "0.1.0"
